"""YAML and JSON that others wrote: parsed within bounds, and checked against a schema.

Parsers answer odd text with many kinds of errors: a tag with a wrong value, a date that is none, brackets
that are nested too deeply. All of them end here, as one line that names what is wrong.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from adapter.errors import field_problem
from adapter.settings.yaml_nodes import check_aliases, check_merges, read_plainly, repeated

# In C where PyYAML has it, as its wheels do: a fifth of the time, and tabs where Go's parser takes them.
if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader
else:
    from yaml import CSafeLoader as SafeLoader

Model = TypeVar("Model", bound=BaseModel)

LENGTH = 128 * 1024
"""Most characters of a value of a ConfigMap that is parsed; the YAML parser needs half a second for them."""

FILE_LENGTH = 64 * 1024 * 1024
"""Most characters of a file of the operator."""

DEPTH = 64
"""Most levels of nesting."""

_MESSAGE = 300
"""Most characters of a parser's message that are shown."""

_VALUE = 40
"""Most characters of a wrong value that are shown."""

_MARK = "\ufeff"
"""Byte order mark that editors put before a text."""


class _Told(SafeLoader):
    """Tells the line of a value that is none of its type: constructors raise what they like."""

    def construct_object(self, node: yaml.Node, *args: Any, **named: Any) -> Any:
        """The object of a node.

        Raises:
            DocumentError: its text is no value of its type.

        """
        try:
            return super().construct_object(node, *args, **named)
        except (DocumentError, yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            value = _brief(str(node.value)[:_VALUE])
            raise DocumentError(
                f"line {line}: {value!r} cannot be read as {kind}; correct it, or quote it as a text"
            ) from error


class _Plain(_Told):
    """Takes plain values as YAML 1.2 does."""


read_plainly(_Plain)


class _Once(_Plain):
    """Refuses a key that one mapping has twice, of which the parser else keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - the parser's own signature
        """The mapping of a node.

        Raises:
            DocumentError: it has a key twice.

        """
        for key, line in repeated(node):
            raise DocumentError(f"line {line}: {_brief(key)} is there twice; delete one of them")
        return super().construct_mapping(node, deep)


class DocumentError(ValueError):
    """A text is no document that can be used; the message says why."""


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        DocumentError: the text is too long, no JSON, nested too deeply, or has half a surrogate pair, with
            which nothing can be written that it is part of, such as all metrics.

    """
    _check_length(text, LENGTH)
    try:
        document = checked(json.loads(text.removeprefix(_MARK)))
        if _ESCAPE in text:
            json.dumps(document, ensure_ascii=False).encode()
    except DocumentError:
        raise
    except UnicodeEncodeError:
        raise DocumentError("not valid JSON: half a surrogate pair; write the character") from None
    except RecursionError:
        raise DocumentError(_DEEP) from None
    except ValueError as error:
        raise DocumentError(f"not valid JSON: {_shown(error)}") from error
    return document


def parse_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises:
        DocumentError: the text is too long, no YAML, nested too deeply, or has values that are none.

    """
    documents = parse_all_yaml(text, loader=_Plain)
    if len(documents) > 1:
        raise DocumentError(f"not valid YAML: expected one document, not {len(documents)}")
    return documents[0] if documents else None


def parse_file(text: str) -> Any:
    """Parse the one YAML document of a user's file, in which no mapping may have a key twice.

    Raises:
        DocumentError: as `parse_yaml`, or a key is there twice; the message has its line.

    """
    documents = parse_all_yaml(text, length=FILE_LENGTH, loader=_Once)
    if len(documents) > 1:
        raise DocumentError(f"not valid YAML: expected one document, not {len(documents)}")
    return documents[0] if documents else None


def parse_all_yaml(
    text: str, *, length: int = LENGTH, loader: type[SafeLoader] = _Told
) -> list[Any]:
    """Parse a stream of YAML documents, of at most that many characters.

    Raises:
        DocumentError: as `parse_yaml`.

    """
    _check_length(text, length)
    _check_brackets(text)
    try:
        _check_levels(text)
        return list(_documents(loader(text), len(text)))
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentError(_DEEP) from None
    except Exception as error:
        # A tag such as !!int calls its constructor, which raises what it likes.
        raise DocumentError(f"not valid YAML: {_shown(error)}") from error


def _documents(loader: SafeLoader, length: int) -> Iterator[Any]:
    """The documents of a stream, of which each is checked before anything is made of it."""
    while loader.check_node():
        node = loader.get_node()
        try:
            check_merges(node, length)
            check_aliases(node, length)
        except ValueError as error:
            raise DocumentError(str(error)) from error
        yield checked(loader.construct_document(node))


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON from its pairs (`object_pairs_hook`).

    Raises:
        DocumentError: a key is there twice.

    """
    if len(dict(pairs)) < len(pairs):
        raise DocumentError("a key is there twice")
    return dict(pairs)


def validated(model: type[Model], document: Any, where: str, problems: list[str]) -> Model | None:
    """Validate a document; append one line per wrong field to `problems` and return None if there are any."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems.extend(
            f"{where}: {field_path(_as_written(item['loc'], document))}{field_problem(item, model)}"
            for item in error.errors()
        )
    except (RecursionError, ValueError, TypeError) as error:
        problems.append(f"{where}: cannot be read ({type(error).__name__})")
    return None


def _as_written(location: Sequence[int | str], document: Any) -> list[int | str]:
    """A place without the parts that a model puts between two that the document has.

    A flat profile's `alpha` is `perfParms.decodeParms.alpha` to the model that lifts it.
    """
    place: list[int | str] = []
    inside = document
    for number, part in enumerate(location):
        here = inside if isinstance(inside, dict) else {}
        if here and part not in here and any(later in here for later in location[number + 1 :]):
            continue
        place.append(part)
        if here:
            inside = here.get(part)
        else:
            listed = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
            inside = inside[part] if listed else None
    return place


def composed(text: str) -> yaml.Node | None:
    """Nodes of a YAML or JSON text with their places; None where the parser has none for it."""
    try:
        _check_levels(text)
        root: yaml.Node | None = yaml.compose(text, Loader=SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return root


def lines_of(root: yaml.Node | None) -> Callable[[Sequence[int | str]], int | None]:
    """A function from the path of a field to its line in the text, counted from 1.

    The line of a field that is missing is that of what it is missing in; None where there is none.
    """

    def line(path: Sequence[int | str]) -> int | None:
        node, number = root, None if root is None else root.start_mark.line + 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pair = next((item for item in node.value if item[0].value == part), None)
                if pair is None:
                    return number
                node, number = pair[1], pair[0].start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    return number
                node = node.value[part]
                number = node.start_mark.line + 1
        return number

    return line


_BRACKETS = re.compile(r"[\[\]{}]")

_ESCAPE = "\\u"
"""Beginning of the escapes of JSON by which alone a text has half a surrogate pair."""

_DEEP = f"nested more than {DEPTH} levels deep"


def _check_length(text: str, length: int) -> None:
    if len(text) > length:
        raise DocumentError(f"longer than {length} characters")


def _check_brackets(text: str) -> None:
    """Refuse brackets that are nested too deeply: the YAML parser needs quadratic time for them."""
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > DEPTH:
            raise DocumentError(_DEEP)


def _check_levels(text: str) -> None:
    """Refuse levels of any kind that are too many before they are composed.

    In C that recurses without looking at the stack: before libyaml 0.2.6, which has a limit, 65,000 levels
    (`- - - -`) end the process. The parser of events does not recurse.
    """
    events = yaml.parse(text, Loader=SafeLoader) if yaml.__with_libyaml__ else ()
    steps = (
        isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        for event in events
    )
    if any(depth > DEPTH for depth in itertools.accumulate(steps)):
        raise DocumentError(_DEEP)


def checked(document: Any) -> Any:
    """The document, unless it is nested too deeply; counted level by level, without recursion.

    Raises:
        DocumentError: it is.

    """
    level: list[Any] = [document]
    depth = 0
    seen: set[int] = set()
    while level:
        depth += 1
        if depth > DEPTH:
            raise DocumentError(_DEEP)
        inner: list[Any] = []
        for item in level:
            # Aliases make one object appear many times.
            if isinstance(item, dict | list) and id(item) not in seen:
                seen.add(id(item))
                inner.extend(item.values() if isinstance(item, dict) else item)
        level = inner
    return document


def _shown(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # Without the parser's name for a text and its pointer into it.
        line, begun, context = error.problem_mark.line, error.context_mark, error.context
        if context and begun is not None and begun.line < line:
            context = f"{context} that begins on line {begun.line + 1}"
        parts = [f"line {line + 1}, column {error.problem_mark.column + 1}", context, error.problem]
        return _brief(": ".join(part for part in parts if part))
    if isinstance(error, yaml.reader.ReaderError):
        return _brief(f"character {error.position + 1}: {error.reason}")
    return _brief(str(error)) or type(error).__name__


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MESSAGE else f"{text[:_MESSAGE]}…"


def field_path(location: Sequence[int | str]) -> str:
    """A path as messages begin with it, such as `data[0].model: `; empty for the whole document."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return f"{path}: " if path else ""
