"""Our errors, by who must act. Each message says what holds, what came, what to do."""

from __future__ import annotations


class SelmaError(Exception):
    """Anything that selma itself raises; the command line prints it without a traceback."""

    exit_code = 1


class ConfigError(SelmaError):
    """A setting is wrong; nothing was started."""

    exit_code = 2


class SkillError(ConfigError):
    """A skill's file cannot be used."""


class DataError(SelmaError):
    """A file that was read (prompts, pairs, benchmark, answers) is broken or unsafe."""

    exit_code = 3


class AdapterError(SelmaError):
    """An adapter file cannot be used, or fits another base."""

    exit_code = 3


class IncompatibleExperts(AdapterError):
    """These experts cannot be merged by this method."""


class MergeWithoutEffect(AdapterError):
    """A merge leaves a layer as it was, though an expert changes it."""


class ModelError(SelmaError):
    """A model cannot be loaded or does not offer what is asked of it."""

    exit_code = 3


class FetchError(SelmaError):
    """A file could not be fetched, or what came is not that file; nothing was written."""

    exit_code = 4


class PublishError(SelmaError):
    """The Hub did not take what was to be uploaded."""

    exit_code = 4


class BackendError(SelmaError):
    """A server failed for good, or its limits of time or money are reached."""

    exit_code = 4


class NoProgress(SelmaError):
    """A stage can make nothing new; what it has is kept and the run can be resumed."""

    exit_code = 4


class TooFewPairs(NoProgress):
    """Choosing left fewer pairs of a skill than it takes to train on."""


class WorkspaceError(SelmaError):
    """The run folder is in use, damaged or cannot be written."""

    exit_code = 5


class TrainingDiverged(SelmaError):
    """Loss or gradient was not finite three times in a row; the last checkpoint is kept."""

    exit_code = 6


class LeftToOthers(SelmaError):
    """This shard has done its part of an item; the rest is that of other shards."""
