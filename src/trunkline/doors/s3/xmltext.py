"""XML in and out. Documents from outside are bounded, and may not declare types or entities."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from trunkline.doors.s3.errors import S3Error

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'
DEPTH_MAX = 16
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def tag(name: str, *inside: str | Xml) -> Xml:
    """An element; plain strings are text and are escaped."""
    return Xml(f"<{name}>{''.join(map(_piece, inside))}</{name}>")


def many(*elements: Xml) -> Xml:
    """Elements side by side."""
    return Xml("".join(elements))


def document(root: str, *inside: Xml, namespace: bool = True) -> bytes:
    """A whole document."""
    attribute = f' xmlns="{NAMESPACE}"' if namespace else ""
    return f"{HEADER}<{root}{attribute}>{''.join(inside)}</{root}>".encode()


class Xml(str):
    """Text that is XML already."""

    __slots__ = ()


def _piece(inside: str | Xml) -> str:
    return inside if isinstance(inside, Xml) else escape(_NOT_XML.sub("\ufffd", inside))


@dataclass
class Node:
    """An element of a document from outside; namespaces are left out."""

    name: str
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def all(self, name: str) -> Iterator[Node]:
        return (child for child in self.children if child.name == name)

    def get(self, name: str, default: str = "") -> str:
        """The text of the first child of that name."""
        return next((child.text for child in self.all(name)), default)


def parse(data: bytes, root: str) -> Node:
    """:raises S3Error: ``MalformedXML``, also for what declares a document type."""
    top = Node("")
    stack = [top]

    def start(name: str, _attributes: object) -> None:
        if len(stack) > DEPTH_MAX:
            raise _malformed("it is nested too deep")
        node = Node(name.rpartition(" ")[2])
        stack[-1].children.append(node)
        stack.append(node)

    def end(_name: str) -> None:
        stack.pop()

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*_: object) -> None:
        raise _malformed("document types are not allowed")

    parser = expat.ParserCreate("utf-8", " ")
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise _malformed(str(error)) from error
    if top.children[0].name != root:
        raise _malformed(f"<{root}> is expected")
    return top.children[0]


def _malformed(why: str) -> S3Error:
    return S3Error("MalformedXML", f"the XML of the request cannot be used: {why}")
