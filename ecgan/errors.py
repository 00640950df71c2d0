"""Errors that a user can act on.

The command line prints their message as one sentence and exits with status 2; nothing else is
shown. Everything that is our own fault stays an ordinary exception with a traceback.
"""


class ECGANError(Exception):
    """Base of the errors whose message names what was wrong and what was expected."""


class ConfigError(ECGANError):
    """A configuration value or key that cannot be used."""


class DataError(ECGANError):
    """A data set, image or label map that cannot be used."""


class WeightsError(ECGANError):
    """A weights file or pretrained network that is missing or does not fit."""


class CheckpointError(ECGANError):
    """A checkpoint that is missing, incomplete or made for another configuration."""


class Stopped(BaseException):
    """Training was asked to stop and has saved what there was to save.

    Like KeyboardInterrupt no error, so that nothing that catches errors catches it.

    Args:
        name: of the signal.
        message: a sentence for the user.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.status = 130 if name == "SIGINT" else 0
        """Exit status: 0 tells a scheduler that the job may be queued again."""
