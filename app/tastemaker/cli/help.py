"""Commands whose help speaks in words: `NUMBER` and `FILE`, not the names of Python types. When
they are interrupted they say what became of their work."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WORDS = {"bool": "", "int": "NUMBER", "float": "NUMBER", "Path": "PATH"}


class Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return [in_words(param) for param in super().get_params(ctx)]

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments as they are typed: what may be left out stands in brackets."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        options = [self.options_metavar] if self.options_metavar else []
        return options + [argument.metavar for argument in arguments]


class Stopped(BaseException):
    """Ctrl-C, and what it means for the work that was under way: a sentence."""


class Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return [in_words(param) for param in super().get_params(ctx)]

    def invoke(self, ctx: Any) -> Any:
        """Typer ends the process without a word when it is interrupted."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("What was finished is kept.") from None


class Commands(typer.Typer):
    """A group of commands of this program."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        return super().command(name, cls=Command, **settings)


def in_words(param: Any) -> Any:
    """The parameter, with a word for what is typed. What an argument is called says it already."""
    if param.param_type_name == "argument":
        param.metavar = param.metavar or param.name.upper()
        vars(param).update(display_type=lambda ctx: "")
    elif param.metavar is None:
        wanted = getattr(getattr(param, "type_descriptor", None), "annotation", str)
        param.metavar = WORDS.get(getattr(wanted, "__name__", ""), "TEXT")
    return param
