"""YAML -> plain values, within bounds: no code, no key twice, and no file that grows while it is read."""

from __future__ import annotations

from typing import Any

import yaml

from yolov7.config.errors import InputError

MAX_NODES = 250_000  # with what aliases repeat; 100,000 classes with their numbers are 200,000
MAX_DEPTH = 50
MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """Counts the values as they are composed: an alias counts as all that it repeats."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self.depth = self.count = 0
        self.counts: dict[str | None, int] = {}  # of each anchor whose value is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark, before = event.start_mark, self.count
        anchor = event.anchor
        if isinstance(event, yaml.AliasEvent) and anchor in self.anchors:
            if anchor not in self.counts:
                raise InputError(f"{self.at(mark)}: the alias {anchor[:50]!r} repeats a value inside itself")
            self.count += self.counts[anchor]
        self.count += 1
        self.depth += 1
        if self.count > MAX_NODES or self.depth > MAX_DEPTH:
            kind = f"{MAX_NODES} values, aliases included" if self.count > MAX_NODES else f"{MAX_DEPTH} levels"
            raise InputError(f"{self.at(mark)}: holds more than {kind}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.counts.setdefault(anchor, self.count - before)  # anchors are unique; those without one share an entry
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        if not all(isinstance(pair, tuple) for pair in node.value):  # of a list that is tagged as a set
            raise InputError(f"{self.at(node.start_mark)}: a list stands where keys belong; accepted: keys with values")
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{self.at(key.start_mark)}: a key is a list or has keys of its own; accepted: a "
                                 "text or a number")
            names = {key.value} if key.tag == MERGE else {key.value, self.construct_object(key)}  # 1 and 01 are one
            if names & seen:
                raise InputError(f"{self.name}, line {key.start_mark.line + 1}: the key {key.value[:100]!r} stands "
                                 "twice")
            seen |= names
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (InputError, yaml.YAMLError):
            raise
        except Exception:  # PyYAML's constructors raise what int(), date() and others do
            what = f"the value {node.value[:50]!r}" if isinstance(node, yaml.ScalarNode) else "what stands here"
            kind = node.tag.removeprefix("tag:yaml.org,2002:")[:50]
            raise InputError(f"{self.at(node.start_mark)}: {what} is not valid YAML for the kind {kind!r}; accepted: "
                             "another value, or a text in quotes") from None

    def at(self, mark: yaml.Mark) -> str:
        """A place in the file, for messages."""
        return f"{self.name}, line {mark.line + 1}, column {mark.column + 1}"


def parse_yaml(text: str, name: str) -> Any:
    """The plain value of a YAML text; ``name`` is its source in messages. Raises `InputError`."""
    try:
        loader = _Loader(text, name)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = loader.at(error.problem_mark) if error.problem_mark else name
        raise InputError(f"{place}: is not valid YAML: {(error.problem or 'unreadable')[:200]}") from None
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML's scanner lets numbers' own errors through
        raise InputError(f"{name}: is not valid YAML: {' '.join(str(error).split())[:200]}") from None
