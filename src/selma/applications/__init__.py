"""Applications of the six stages' parts, one folder each, with all that only it needs.

An application uses the stages' parts, and none of them knows it. Applications never import one
another. To add one, add a folder and a row here, or a row in another package (entry points
`selma.applications`).
"""

from __future__ import annotations

from dataclasses import dataclass

from selma.registry import Table


@dataclass(frozen=True)
class Application:
    """One row; it names everything by dotted paths, so that `selma --help` imports no settings."""

    name: str
    commands: str
    """The module whose `register(app)` adds its commands to the command line."""
    section: str | None = None
    """Its section of a config, if it has settings."""
    settings: str | None = None
    """The class of its runs' settings, "module:Class": RunConfig with the section."""
    mistakes: str | None = None
    """The check of such settings, "module:function" of the config and the stages to make."""
    mark: str | None = None
    """A key by which files of its own are told from a run's, if it has any."""
    takes: str | None = None
    """The command that takes such a file."""
    leaves: str | None = None
    """A file by which the folder that this command makes is told from a run's."""
    check: str | None = None
    """The check of such a file, "module:function" of its path and the folder."""
    runs: str | None = None
    """The runs in such a file, "module:function" of its path: name → settings."""
    guides: str | None = None
    """The guides of these runs, "module:function" of its path: name → settings of those that have
    any."""
    data_sets: str | None = None
    """What `selma data list` says of data sets that it reads, "module:rows" of DataSet."""


APPLICATIONS: Table[Application] = Table(
    "application",
    "selma.applications",
    [
        Application("questions", "selma.applications.questions.command"),
        Application("evaluation", "selma.applications.evaluation.command"),
        Application("hps", "selma.applications.hps.command"),
        Application("judges", "selma.applications.judges.command"),
        Application("publishing", "selma.applications.publishing.command"),
        Application("exporting", "selma.applications.exporting.command"),
        Application("study", "selma.applications.study.command"),
        Application("serving", "selma.applications.serving.command"),
        Application(
            "sur",
            "selma.applications.sur.command",
            section="sur",
            settings="selma.applications.sur.settings:SurRun",
            mistakes="selma.applications.sur.preflight:mistakes",
            data_sets="selma.applications.sur.surd:DATA_SETS",
        ),
        Application(
            "control",
            "selma.applications.control.command",
            section="control",
            settings="selma.applications.control.settings:ControlRun",
            mistakes="selma.applications.control.preflight:mistakes",
            data_sets="selma.applications.control.published:DATA_SETS",
        ),
        Application(
            "angles",
            "selma.applications.angles.command",
            data_sets="selma.applications.angles.flowers:DATA_SETS",
        ),
        Application(
            "subjects",
            "selma.applications.subjects.command",
            section="subjects",
            settings="selma.applications.subjects.settings:SubjectsRun",
            mistakes="selma.applications.subjects.preflight:mistakes",
            data_sets="selma.applications.subjects.dreambooth:DATA_SETS",
        ),
        Application(
            "comparisons",
            "selma.applications.comparisons.command",
            mark="rows",
            takes="selma compare",
            leaves="comparison.json",
            check="selma.applications.comparisons.recipes:check_file",
            runs="selma.applications.comparisons.recipes:runs",
            guides="selma.applications.comparisons.recipes:guides",
        ),
    ],
)
"""In the order of their commands."""
