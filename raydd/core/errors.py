"""What users see when something is wrong: one complete message, never a traceback."""


class UserError(Exception):
    """A user's mistake. Its text is the whole message: it names the field or the file and says what to do.

    The command line prints it and exits with code 2.
    """


class ConfigError(UserError, ValueError):
    """A field of the configuration is wrong, or two of them do not go together.

    A ValueError, too: pydantic and tyro then say in which part of the whole configuration it was raised.
    """

    def __init__(self, field: str, problem: str) -> None:
        """Name the field by its dotted path (`method.images_per_class`) and say what is wrong with it."""
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, str]]:
        """Pickle from the two parts, so that the error survives the way back from another process."""
        return type(self), (self.field, self.problem)


class DataError(UserError):
    """A dataset is not what it says it is."""


class ArtefactError(UserError):
    """A stored artefact is damaged, incomplete, or was made for something else."""


class HeldError(UserError):
    """Somebody else is at work in a folder."""


class ResourceError(UserError):
    """The machine or the cluster lacks what the run asks for."""


class RunError(Exception):
    """The work cannot go on, and not by a user's mistake (a non-finite loss after every roll-back).

    The command line prints the message and exits with code 1.
    """
