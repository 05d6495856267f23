"""The formulas of this package as straight-line code of floats, for the search of one replica.

On floats, most of the time goes into calls, names of attributes and records of what is not needed. So the
modules of formulas are called once with terms instead of numbers, which note what is done with them. Out of
the notes comes one function without calls but those of `math`: what does not depend on the rate is computed
once for a replica, what is needed twice once, and what no result needs not at all.

The numbers are those of `floats.py`, operation by operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

_ROOT_HALF = math.sqrt(0.5)
_DEEPEST = 15
"""Levels of parentheses in one line."""

Argument = Any
"""A term, or a number, which is the same in all calls."""


class Term:
    """A number that is not known yet: what is done with it gives further terms."""

    __slots__ = ("_notes", "number")

    def __init__(self, notes: Notes, number: int) -> None:
        self._notes = notes
        self.number = number

    def _note(self, text: str, *arguments: Argument) -> Term:
        return self._notes.term(text, *arguments)

    def __bool__(self) -> bool:
        """No branch can be taken that depends on it.

        Raises:
            TypeError: Always.

        """
        raise TypeError("a term has no truth yet: formulas choose by np.where")

    def __add__(self, other: Argument) -> Term:
        """Sum."""
        return self._note("({0} + {1})", self, other)

    def __radd__(self, other: Argument) -> Term:
        """Sum."""
        return self._note("({0} + {1})", other, self)

    def __sub__(self, other: Argument) -> Term:
        """Difference."""
        return self._note("({0} - {1})", self, other)

    def __rsub__(self, other: Argument) -> Term:
        """Difference."""
        return self._note("({0} - {1})", other, self)

    def __mul__(self, other: Argument) -> Term:
        """Product."""
        return self._note("({0} * {1})", self, other)

    def __rmul__(self, other: Argument) -> Term:
        """Product."""
        return self._note("({0} * {1})", other, self)

    def __truediv__(self, other: Argument) -> Term:
        """Ratio."""
        return self._note("({0} / {1})", self, other)

    def __rtruediv__(self, other: Argument) -> Term:
        """Ratio."""
        return self._note("({0} / {1})", other, self)

    def __pow__(self, other: Argument) -> Term:
        """Power; a square is a product, which takes less time."""
        if other == 2:
            return self._note("({0} * {0})", self)
        return self._note("({0} ** {1})", self, other)

    def __rpow__(self, other: Argument) -> Term:
        """Power."""
        return self._note("({0} ** {1})", other, self)

    def part(self, place: int) -> Term:
        """One of several values."""
        return self._note(f"{{0}}[{place}]", self)

    def __neg__(self) -> Term:
        """The negative."""
        return self._note("(-{0})", self)

    def __lt__(self, other: Argument) -> Term:
        """Whether it is less."""
        return self._note("({0} < {1})", self, other)

    def __gt__(self, other: Argument) -> Term:
        """Whether it is more."""
        return self._note("({0} > {1})", self, other)

    def __invert__(self) -> Term:
        """The contrary of a truth."""
        return self._note("(not {0})", self)

    def __and__(self, other: Argument) -> Term:
        """Both."""
        return self._note("({0} & {1})", self, other)


class _Note(NamedTuple):
    """One operation.

    Attributes:
        text: Python, with places for the arguments.
        arguments: terms and numbers.
        once: true where it depends on no rate.

    """

    text: str
    arguments: tuple[Argument, ...]
    once: bool


class Notes:
    """What is done with terms, in the order of its being done; equal operations are one term."""

    def __init__(self) -> None:
        self._notes: list[_Note] = []
        self._known: dict[tuple[object, ...], Term] = {}
        self._functions: dict[str, Callable[..., Any]] = {
            "erfc": math.erfc,
            "exp": math.exp,
            "expm1": math.expm1,
            "floor": math.floor,
            "lgamma": math.lgamma,
            "log": math.log,
            "log1p": math.log1p,
            "sqrt": math.sqrt,
            "cbrt": math.cbrt,
        }

    def named(self, name: str, *, once: bool) -> Term:
        """A term that the function has under a name."""
        return self._made(_Note(name, (), once))

    def term(self, text: str, *arguments: Argument) -> Term:
        """An operation; as one whose arguments are all numbers is a term, too."""
        terms = [one for one in arguments if isinstance(one, Term)]
        once = all(self._notes[one.number].once for one in terms)
        return self._made(_Note(text, arguments, once))

    def call(self, name: str, function: Callable[..., Any], *arguments: Argument) -> Term:
        """A call of a function that is not noted itself."""
        self._functions[name] = function
        places = ", ".join(f"{{{place}}}" for place in range(len(arguments)))
        return self.term(f"{name}({places})", *arguments)

    def _made(self, note: _Note) -> Term:
        key = (note.text, *(_identity(one) for one in note.arguments))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Term(self, len(self._notes))
            self._notes.append(note)
        return known

    def log_gamma(self, value: Argument) -> Term:
        """Logarithm of the gamma function."""
        return self.term("lgamma({0})", value)

    def compiled(
        self, first: Sequence[Term], parts: Mapping[str, Sequence[Term]]
    ) -> Callable[[Any, Any], Any]:
        """A function of `engine` and `targets`, of which names of terms are; it returns one of the rate.

        The returned function takes the rate, and for each part whether to compute it. It gives the values of
        `first` and then those of the parts, 0 for a part that is not computed.

        Args:
            first: What is always asked for.
            parts: Terms of each part, by its name.

        """
        text = _Text(self._notes, first, parts).lines()
        namespace: dict[str, Any] = dict(self._functions)
        exec(compile("\n".join(text), "<formulas>", "exec"), namespace)  # noqa: S102 - our own text
        return cast("Callable[..., Any]", namespace["of"])


def _identity(argument: Argument) -> object:
    return argument.number if isinstance(argument, Term) else (type(argument), repr(argument))


class _Text:
    """Python of notes: see `Notes.compiled`."""

    def __init__(
        self, notes: Sequence[_Note], first: Sequence[Term], parts: Mapping[str, Sequence[Term]]
    ) -> None:
        self._notes = notes
        self._parts = tuple(parts)
        self._results = [first, *parts.values()]
        self._uses = [0] * len(notes)
        self._homes = [0] * len(notes)
        """Sets of results that need a term, as bits."""
        self._across = [False] * len(notes)
        """Terms that depend on no rate, for one that does."""
        self._texts: dict[int, tuple[str, int]] = {}
        for bit, terms in enumerate(self._results):
            for term in terms:
                self._homes[term.number] |= 1 << bit
                # A result has a name of its own.
                self._uses[term.number] += 2
        for number in reversed(range(len(notes))):
            note = notes[number]
            for term, times in self._terms(note):
                if self._homes[number]:
                    self._homes[term.number] |= self._homes[number]
                    self._uses[term.number] += times
                    self._across[term.number] |= notes[term.number].once and not note.once

    @staticmethod
    def _terms(note: _Note) -> Iterable[tuple[Term, int]]:
        for place, one in enumerate(note.arguments):
            if isinstance(one, Term):
                yield one, note.text.count(f"{{{place}}}")

    def lines(self) -> list[str]:
        """All of it."""
        names = self._parts
        before = self._block(lambda number: self._notes[number].once)
        homes, alone = self._homes, {1 << bit for bit in range(1, len(self._results))}
        shared = self._block(
            lambda number: not self._notes[number].once and homes[number] not in alone
        )
        lines = ["def of(engine, targets):", *_indented(before, 1)]
        lines += [f"    def at({', '.join(['rate', *names])}):", *_indented(shared, 2)]
        for bit, name in enumerate(names, 1):
            home = 1 << bit
            own = self._block(
                lambda number, home=home: not self._notes[number].once and homes[number] == home  # type: ignore[misc]
            )
            results = self._names(self._results[bit])
            own.append(f"{name} = {results},")
            lines += [f"        if {name}:", *_indented(own, 3)]
            empty = ", ".join(["0.0"] * len(self._results[bit]))
            lines += ["        else:", f"            {name} = {empty},"]
        parts = "".join(f", *{name}" for name in names)
        return [*lines, f"        return {self._names(self._results[0])}{parts}", "    return at"]

    def _names(self, terms: Sequence[Term]) -> str:
        return ", ".join(self._texts[term.number][0] for term in terms)

    def _block(self, here: Callable[[int], bool]) -> list[str]:
        lines = []
        for number, note in enumerate(self._notes):
            if not self._homes[number] or not here(number):
                continue
            depth, texts = 0, []
            for one in note.arguments:
                if isinstance(one, Term):
                    text, deep = self._texts[one.number]
                    depth = max(depth, deep)
                else:
                    text = repr(one)
                texts.append(text)
            text = note.text.format(*texts)
            if text == "rate":
                pass
            elif self._uses[number] > 1 or self._across[number] or depth >= _DEEPEST:
                lines.append(f"t{number} = {text}")
                text, depth = f"t{number}", -1
            self._texts[number] = text, depth + 1
        return lines


def _indented(lines: Iterable[str], levels: int) -> list[str]:
    return ["    " * levels + line for line in lines]


class Functions:
    """The functions of numpy that formulas call, for terms."""

    pi = math.pi

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        for name in ("exp", "expm1", "log", "log1p", "sqrt", "cbrt", "abs"):
            setattr(self, name, self._called(name))

    def _called(self, name: str) -> Callable[[Argument], Term]:
        return lambda value: self._notes.term(f"{name}({{0}})", value)

    def maximum(self, one: Argument, other: Argument) -> Term:
        """The larger one."""
        return self._notes.term("({1} if {1} > {0} else {0})", one, other)

    def minimum(self, one: Argument, other: Argument) -> Term:
        """The smaller one."""
        return self._notes.term("({1} if {1} < {0} else {0})", one, other)

    def clip(self, value: Argument, least: Argument, most: Argument) -> Term:
        """Nearest number within the bounds."""
        text = "({1} if {0} < {1} else {2} if {2} < {0} else {0})"
        return self._notes.term(text, value, least, most)

    def where(self, condition: Argument, one: Argument, other: Argument) -> Term:
        """One of the two."""
        return self._notes.term("({1} if {0} else {2})", condition, one, other)

    def floor(self, value: Argument) -> Term:
        """Whole numbers stay floats."""
        return self._notes.term("float(floor({0}))", value)

    @staticmethod
    def any(value: Argument) -> bool:  # noqa: ARG004 - as numpy has it
        """Whether some may be: what is added then is 0 where none are."""
        return True

    @staticmethod
    def asarray(value: Argument) -> Argument:
        """The same."""
        return value

    @staticmethod
    def ones_like(value: Argument) -> float:  # noqa: ARG004 - as numpy has it
        """One."""
        return 1.0


def normal(notes: Notes) -> Callable[[Term], Term]:
    """Share of a normal distribution below the score."""
    return lambda score: notes.term(f"(0.5 * erfc((-{{0}}) * {_ROOT_HALF!r}))", score)
