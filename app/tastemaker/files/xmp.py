"""XMP packets: what programs note about a picture, in a sidecar beside it or inside of it.

A packet is RDF in XML (ISO 16684-1). It is read without entities, from files of a bounded size.
Changing one leaves what others wrote: their properties, prefixes, comments and wrapping stay, and
only the named property is set or taken away.
"""

from pathlib import Path
from typing import Any

from lxml import etree

from tastemaker.errors import Invalid

MOST_BYTES = 16 * 2**20  # of a sidecar; those of darktable with many masks have some
MOST_VALUE = 200  # characters of a property that are looked at

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
META = "adobe:ns:meta/"
NAMESPACES = {
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpDM": "http://ns.adobe.com/xmp/1.0/DynamicMedia/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "microsoft": "http://ns.microsoft.com/photo/1.0",  # as ExifTool spells it
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "darktable": "http://darktable.sf.net/",
    "acdsee": "http://ns.acdsee.com/iptc/1.0/",
    "tastemaker": "http://tastemaker.invalid/ns/1.0/",
}
for _prefix, _uri in NAMESPACES.items():
    etree.register_namespace(_prefix, _uri)

EMPTY = (
    f'<?xml version="1.0" encoding="UTF-8"?>\n<x:xmpmeta xmlns:x="{META}">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n  <rdf:Description rdf:about=""/>\n </rdf:RDF>\n</x:xmpmeta>\n'
).encode()


class Packet:
    """One packet. Properties are named by prefix and name, such as `("xmp", "Rating")`."""

    def __init__(self, content: bytes = EMPTY, called: str = "The sidecar") -> None:
        """Raises `Invalid`, about the file `called` so, for what is no XMP."""
        self._declared = content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<?xml")
        way_out = "Let the program that made it write it again, or delete it."
        if len(content) > MOST_BYTES:
            raise Invalid(
                f"{called} has {len(content) / 2**20:.0f} MB; XMP of at most "
                f"{MOST_BYTES // 2**20} MB is read.",
                way_out,
            )
        if not content.startswith((b"\xff\xfe", b"\xfe\xff")):  # padding, where it is not UTF-16
            content = content.strip(b"\0 \t\r\n")
        bare = content.replace(b"\0", b"")  # in UTF-16, every other byte
        if b"<!DOCTYPE" in bare or b"<!ENTITY" in bare:
            raise Invalid(f"{called} declares entities, which XMP does not have.", way_out)
        safe = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
        )
        try:
            self._tree: Any = etree.fromstring(content, safe).getroottree()
        except (etree.XMLSyntaxError, ValueError) as error:
            reason = str(error).partition(", line")[0]
            raise Invalid(f"{called} is damaged: it is not XML ({reason}).", way_out) from None
        roots = list(self._tree.getroot().iter(f"{{{RDF}}}RDF"))
        if not roots:
            raise Invalid(f"{called} holds no XMP.", way_out)
        self._rdf: Any = roots[0]

    def get(self, prefix: str, name: str) -> str:
        """The value of a simple property; empty where there is none."""
        key = _key(prefix, name)
        for about in self._descriptions():
            if (value := about.get(key)) is not None:
                return str(value)[:MOST_VALUE].strip()
            if (element := about.find(key)) is not None:
                return (element.text or "")[:MOST_VALUE].strip()
        return ""

    def items(self, prefix: str, name: str) -> list[str]:
        """The entries of a property that is a list; of a simple one, itself."""
        for about in self._descriptions():
            element = about.find(_key(prefix, name))
            if element is not None and len(element):
                return [(item.text or "")[:MOST_VALUE].strip() for item in element.iter(_LI)]
        value = self.get(prefix, name)
        return [value] if value else []

    def put(self, prefix: str, name: str, value: str) -> None:
        """Set a simple property, where it stands already or as a new one."""
        key = _key(prefix, name)
        for about in self._descriptions():
            if key in about.attrib:
                about.set(key, value)
                return
            if (element := about.find(key)) is not None:
                element.text = value
                return
        described = self._descriptions() or [etree.SubElement(self._rdf, _DESCRIPTION)]
        described[0].set(key, value)

    def drop(self, prefix: str, name: str) -> None:
        """Take a property away, if it is there."""
        key = _key(prefix, name)
        for about in self._descriptions():
            about.attrib.pop(key, None)
            if (element := about.find(key)) is not None:
                about.remove(element)

    def content(self) -> bytes:
        """The packet in UTF-8, with a declaration if it had one."""
        written = etree.tostring(self._tree, xml_declaration=self._declared, encoding="UTF-8")
        return bytes(written) + b"\n"

    def _descriptions(self) -> list[Any]:
        return [child for child in self._rdf if child.tag == _DESCRIPTION]


_DESCRIPTION, _LI = f"{{{RDF}}}Description", f"{{{RDF}}}li"


def _key(prefix: str, name: str) -> str:
    return f"{{{NAMESPACES[prefix]}}}{name}"


def sidecars_beside(picture: Path) -> list[Path]:
    """The sidecars of a picture that are there, links among them: `a.jpg.xmp`, as darktable and
    digiKam call it, then `a.xmp`, as Adobe's programs do; their ending may be in capitals."""
    found = []
    for start in (str(picture), str(picture.with_suffix(""))):
        for suffix in (".xmp", ".XMP"):
            place = Path(start + suffix)
            if place.is_symlink() or place.is_file():
                found.append(place)
                break
    return found
