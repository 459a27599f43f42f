"""What else the parts of SELMA can do, one folder each, with all that only it needs.

An application stands beside the six stages: it uses their parts, and none of them knows it.
Applications never import one another. Adding one is a folder and a row here, or a row of another
package (entry points `selma.applications`).
"""

from __future__ import annotations

from dataclasses import dataclass

from selma.registry import Table


@dataclass(frozen=True)
class Application:
    """One row; all in it is named by dotted paths, so that `selma --help` imports no settings."""

    name: str
    commands: str
    """Module of its commands, with `register(app)` that adds them to the command line."""
    section: str | None = None
    """Its section of a config, where it has settings of its own."""
    settings: str | None = None
    """Class of its runs' settings, "module:Class": RunConfig with the section."""
    mistakes: str | None = None
    """What is wrong with such settings, "module:function" of the config and the stages to make."""


APPLICATIONS: Table[Application] = Table(
    "application",
    "selma.applications",
    [
        Application("questions", "selma.applications.questions.command"),
        Application("evaluation", "selma.applications.evaluation.command"),
        Application("hps", "selma.applications.hps.command"),
        Application("publishing", "selma.applications.publishing.command"),
        Application("study", "selma.applications.study.command"),
        Application(
            "sur",
            "selma.applications.sur.command",
            section="sur",
            settings="selma.applications.sur.settings:SurRun",
            mistakes="selma.applications.sur.preflight:mistakes",
        ),
        Application(
            "control",
            "selma.applications.control.command",
            section="control",
            settings="selma.applications.control.settings:ControlRun",
            mistakes="selma.applications.control.preflight:mistakes",
        ),
        Application("angles", "selma.applications.angles.command"),
        Application(
            "subjects",
            "selma.applications.subjects.command",
            section="subjects",
            settings="selma.applications.subjects.settings:SubjectsRun",
            mistakes="selma.applications.subjects.preflight:mistakes",
        ),
    ],
)
"""In the order of their commands."""
