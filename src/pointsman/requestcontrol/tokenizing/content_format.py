"""Whether a chat template walks over content parts or wants strings, read from the template as vLLM reads it.

It decides token ids: of two text parts, a template that gets a string sees them joined by a line feed.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

from pointsman.requestcontrol.tokenizing.messages import ContentFormat


def content_format(template: nodes.Template) -> ContentFormat:
    """``parts`` if a loop goes over the content of a message, else ``string``."""
    return "parts" if any(_content_loops(template)) else "string"


def _content_loops(root: nodes.Template) -> Iterator[nodes.For]:
    items = _message_names(root)
    macro_of = {id(loop): macro for macro in root.find_all(nodes.Macro) for loop in macro.find_all(nodes.For)}
    for loop in root.find_all(nodes.For):
        over, macro = loop.iter, macro_of.get(id(loop))
        name = over.name if isinstance(over, nodes.Name) else None
        names = {"content"} if macro is None else _content_arguments(root, macro, items)
        if name in names or any(_reads(over, item, "content") for item in items):
            yield loop


def _message_names(root: nodes.Template) -> set[str]:
    """Variables of loops over the messages, or over something assigned from them."""
    lists = {"messages"}
    found = True
    while found:
        found = False
        for assign in root.find_all(nodes.Assign):
            target = assign.target
            if isinstance(target, nodes.Name) and target.name not in lists and _reads_any(assign.node, lists):
                lists.add(target.name)
                found = True
    return {
        loop.target.name
        for loop in root.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and _reads_any(loop.iter, lists)
    }


def _content_arguments(root: nodes.Template, macro: nodes.Macro, items: set[str]) -> set[str]:
    """Parameters of a macro that are given the content of a message somewhere."""
    parameters = [argument.name for argument in macro.args]
    given: set[str] = set()
    for call in root.find_all(nodes.Call):
        if not (isinstance(call.node, nodes.Name) and call.node.name == macro.name):
            continue
        pairs = [*zip(parameters, call.args, strict=False), *((keyword.key, keyword.value) for keyword in call.kwargs)]
        given |= {name for name, value in pairs if any(_reads(value, item, "content") for item in items)}
    return given & set(parameters)


def _reads_any(node: nodes.Node | None, names: set[str]) -> bool:
    return any(_reads(node, name) for name in names)


def _reads(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Whether an expression is a variable, or one of its keys, perhaps sliced or through filters."""
    if isinstance(node, nodes.Filter | nodes.Test):
        return _reads(node.node, name, key)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _reads(node.node, name, key)
    if key is None:
        return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == key and _reads(node.node, name)
    return isinstance(node, nodes.Getattr) and node.attr == key and _reads(node.node, name)
