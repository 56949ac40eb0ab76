"""The names and addresses of licences: Creative Commons of all versions and ports, public domain, free software.

Sources: the URI scheme of Creative Commons, the SPDX licence list, and the spellings in use by Freesound, the Free
Music Archive, Jamendo and YouTube.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from partimento.errors import PartimentoError

OBLIGATIONS = ("attribution", "non_commercial", "no_derivatives", "share_alike")


@dataclass(frozen=True)
class Licence:
    """A licence and its obligations. `name` is its usual short form; `uri` is None where the text names no version."""

    name: str
    uri: str | None
    attribution: bool = False
    non_commercial: bool = False
    no_derivatives: bool = False
    share_alike: bool = False

    @property
    def obligations(self) -> tuple[str, ...]:
        return tuple(name for name in OBLIGATIONS if getattr(self, name))


# ---- Creative Commons ------------------------------------------------------------------------------------------

_VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")
_PORT_CODES = """am ar at au az be bg br ca ch cl cn co cr cz de dk ec ee eg es fi fr ge gr gt hk hr hu ie igo il
    in it jp kr lk lu mk mt mx my nl no nz pe ph pl pr pt ro rs scotland se sg si th tw ua ug uk us ve vn za"""
_COUNTRY_NAMES = """argentina;australia;austria;belgium;brazil;bulgaria;canada;chile;china;china mainland;colombia;
    costa rica;croatia;czech republic;denmark;ecuador;egypt;estonia;finland;france;germany;greece;guatemala;hong kong;
    hungary;india;intergovernmental organization;ireland;israel;italy;japan;korea;luxembourg;macedonia;malaysia;malta;
    mexico;netherlands;new zealand;norway;peru;philippines;poland;portugal;puerto rico;romania;serbia;singapore;
    slovenia;south africa;south korea;spain;sweden;switzerland;taiwan;thailand;uganda;uk england wales;united kingdom;
    united states;venezuela;vietnam"""
_PORTS = frozenset(_PORT_CODES.split())
_COUNTRIES = frozenset(name.strip() for name in _COUNTRY_NAMES.split(";"))
_WORDS = {"attribution": "by", "noncommercial": "nc", "noderivatives": "nd", "sharealike": "sa"}


def _creative_commons(parts: list[str], version: str | None, port: str | None, text: str) -> Licence:
    """The licence of these of by, nc, nd, sa."""
    have = set(parts)
    if len(have) != len(parts) or have >= {"nd", "sa"}:
        raise unparsed(text, f"{'-'.join(parts)} is no licence of Creative Commons")
    if "by" not in have and version not in ("1.0", "2.0"):  # from 2.0 on all ask for attribution (2.0 jp apart)
        raise unparsed(text, f"{'-'.join(parts)} without attribution has no such version")
    if version is not None and version not in _VERSIONS:
        raise unparsed(text, f"Creative Commons has no version {version}")
    if port and version not in _VERSIONS[:-1]:
        raise unparsed(text, f"only versions 1.0 to 3.0 have ports such as {port!r}")
    order = ("by", "nd", "nc", "sa") if version == "1.0" else ("by", "nc", "nd", "sa")  # as the URIs have it
    slug = "-".join(code for code in order if code in have)
    tail = f"{port}/" if port else ""
    return Licence(
        f"CC {slug.upper()}" + (f" {version}" if version else "") + (f" {port.upper()}" if port else ""),
        f"https://creativecommons.org/licenses/{slug}/{version}/{tail}" if version else None,
        attribution="by" in have,
        non_commercial="nc" in have,
        no_derivatives="nd" in have,
        share_alike="sa" in have,
    )


_CC0 = Licence("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/")
_MARK = Licence("Public Domain Mark 1.0", "https://creativecommons.org/publicdomain/mark/1.0/")
_PUBLIC_DOMAIN = Licence("Public Domain", None)
# Whole works may be shared for non-commercial ends only; what is made from samples of them may be sold.
_SAMPLING = {
    name: Licence(f"CC {title} 1.0", f"https://creativecommons.org/licenses/{name}/1.0/", True, True)
    for name, title in (("sampling+", "Sampling+"), ("nc-sampling+", "NonCommercial Sampling+"))
}


# ---- free software licences in use for sound, and of data -------------------------------------------------------

_NOTICE, _COPYLEFT = {"attribution": True}, {"attribution": True, "share_alike": True}
# GNU ids come in the forms of the grammar below.
_FREE = ("MIT-0", "0BSD", "Unlicense", "WTFPL", "PDDL-1.0", "CC-PDDC")
_WITH_NOTICE = ("MIT", "ISC", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "Zlib", "ODC-By-1.0")
_WITH_COPYLEFT = ("LAL-1.2", "LAL-1.3", "ODbL-1.0", "MPL-2.0")
_SPDX: dict[str, dict[str, bool]] = {
    **{name: {} for name in _FREE},
    **dict.fromkeys(_WITH_NOTICE, _NOTICE),
    **dict.fromkeys(_WITH_COPYLEFT, _COPYLEFT),
}
_GNU_VERSIONS = {"": ("1.0", "2.0", "3.0"), "L": ("2.0", "2.1", "3.0"), "A": ("3.0",)}
_SPDX_LOWER = {name.lower().replace("-", " "): name for name in _SPDX}


def _spdx(name: str) -> Licence:
    return Licence(name, f"https://spdx.org/licenses/{name}.html", **_SPDX[name])


def _gnu(kind: str, version: str | None, later: bool, text: str) -> Licence:
    if version is None:
        return Licence(f"{kind}GPL", None, **_COPYLEFT)
    if version not in _GNU_VERSIONS[kind]:
        raise unparsed(text, f"{kind}GPL has no version {version}")
    name = f"{kind}GPL-{version}-{'or-later' if later else 'only'}"
    return Licence(name, f"https://spdx.org/licenses/{name}.html", **_COPYLEFT)


# ---- reading URLs ----------------------------------------------------------------------------------------------

URL = re.compile(r"((?:https?://|www\.|(?<![\w./-])(?=(?:creativecommons|spdx|gnu|opensource)\.org/))[^\s<>\"')\]]+)")
_CC_PATH = re.compile(
    r"licenses/(?P<parts>(?:by|nc|nd|sa)(?:-(?:by|nc|nd|sa))*)/(?P<version>\d\.\d)"
    r"(?:/(?P<port>[a-z]{2}|igo|scotland))?(?:/(?:deed|legalcode|rdf)(?:\.[a-z]{2}(?:[_-][a-z]+)?)?(?:\.txt)?)?"
)
_GNU_PATH = re.compile(r"(?:licenses|copyleft)/(?:old-licenses/)?(a|l)?gpl(?:-(\d\.\d))?(?:(?:\.en)?\.(?:html|txt))?")
_CC_OTHER = {
    "publicdomain/zero/1.0": _CC0,
    "publicdomain/mark/1.0": _MARK,
    "licenses/publicdomain": _PUBLIC_DOMAIN,
    "publicdomain": _PUBLIC_DOMAIN,
    **{f"licenses/{name}/1.0": licence for name, licence in _SAMPLING.items()},
}
_DEED = re.compile(r"(.*?)(?:/(?:deed|legalcode)(?:\.[a-z]{2}(?:[_-][a-z]+)?)?)?")


def by_url(url: str, text: str) -> Licence:
    bare = re.sub(r"^(?:https?://)?(?:www\.)?", "", url.rstrip(".,;:")).split("?")[0].split("#")[0].rstrip("/")
    host, _, path = bare.partition("/")
    if host == "creativecommons.org":
        match = _CC_PATH.fullmatch(path)
        if match:
            return _creative_commons(match["parts"].split("-"), match["version"], _port(match["port"], text), text)
        deed = _DEED.fullmatch(path)
        if deed and deed[1] in _CC_OTHER:
            return _CC_OTHER[deed[1]]
        gnu = re.fullmatch(r"licenses/(l?)gpl/(\d\.\d)", path)
        if gnu:
            return _gnu(gnu[1].upper(), gnu[2], False, text)
    elif host == "gnu.org":
        gnu = re.fullmatch(
            r"(?:licenses|copyleft)/(?:old-licenses/)?(a|l)?gpl(?:-(\d\.\d))?(?:\.(?:html|txt|en\.html))?", path
        )
        if gnu:
            return _gnu((gnu[1] or "").upper(), gnu[2], False, text)
    elif host in ("spdx.org", "opensource.org"):
        match = re.fullmatch(r"licenses?/([\w.+-]+?)(?:\.html|\.php)?", path)
        if match:
            found = by_words(match[1], text)
            if len(found) == 1:
                return found[0]
    raise unparsed(text, f"the address {url} is not that of a known licence")


def _port(port: str | None, text: str) -> str | None:
    if port is not None and port not in _PORTS:
        raise unparsed(text, f"Creative Commons has no port {port!r}")
    return port


# ---- reading words ---------------------------------------------------------------------------------------------

_JOINED = (  # several spellings of one word, after all signs between words became blanks
    (re.compile(r"\bnon commercial\b"), "noncommercial"),
    (re.compile(r"\bshare alike\b"), "sharealike"),
    (re.compile(r"\bno ?deriv(?:ative|ate|s|atives)? works?\b|\bno ?deriv(?:ative|ate|s|atives)?\b"), "noderivatives"),
)
_SIGNS = re.compile(r"[\s\-_,;:()\[\]/\"'“”‘’–—‐‑|]+|\.(?!\d)")
_CODE = r"(?:by|nc|nd|sa)"
_WORD = r"(?:attribution|noncommercial|noderivatives|sharealike)"
_NUMBER = r"(?: (?:version )?v?(?P<version>\d(?:\.\d)?))?"
_PLACE = (
    r"(?: (?:(?:international|unported|generic|universal)(?: public)?|(?P<port>"
    + "|".join(sorted(_PORTS | _COUNTRIES, key=len, reverse=True))
    + r")))?(?: licen[cs]e)?"
)


def _cc_codes(match: re.Match[str], text: str) -> Licence:
    return _creative_commons(match["parts"].split(), _number(match), _place(match), text)


def _cc_words(match: re.Match[str], text: str) -> Licence:
    return _creative_commons([_WORDS[word] for word in match["parts"].split()], _number(match), _place(match), text)


def _number(match: re.Match[str]) -> str | None:
    version = match["version"]
    return f"{version}.0" if version and "." not in version else version


def _place(match: re.Match[str]) -> str | None:
    """A country's name does not change the obligations; only the short form goes into the name and the URI."""
    return match["port"] if match["port"] in _PORTS else None


_Reader = Callable[[re.Match[str], str], Licence | None]
_CC = r"(?:creative commons|cc)"
_GRAMMAR: tuple[tuple[str, _Reader], ...] = (
    (rf"(?:{_CC} )?(?:nc|noncommercial) sampling(?:\+| plus)(?: 1\.0)?", lambda m, t: _SAMPLING["nc-sampling+"]),
    (rf"(?:{_CC} )?sampling(?:\+| plus)(?: 1\.0)?", lambda m, t: _SAMPLING["sampling+"]),
    (rf"(?:cc ?0|{_CC} (?:zero|0|cc0))(?: v?1\.0)?(?: universal)?(?: licen[cs]e)?", lambda m, t: _CC0),
    (r"(?:cc )?(?:public domain mark|pdm)(?: 1\.0)?(?: universal)?", lambda m, t: _MARK),
    (r"(?:cc )?(?:public domain(?: dedication)?|pd)", lambda m, t: _PUBLIC_DOMAIN),
    (rf"{_CC}(?: licen[cs]e)? (?P<parts>{_CODE}(?: {_CODE})*){_NUMBER}{_PLACE}", _cc_codes),
    (rf"(?P<parts>by(?: (?:nc|nd|sa))+){_NUMBER}{_PLACE}", _cc_codes),
    (rf"(?P<parts>by) v?(?P<version>\d\.\d){_PLACE}", _cc_codes),
    (
        rf"(?:{_CC}(?: licen[cs]e)? )?(?P<parts>{_WORD}(?: {_WORD})*)(?: aka music sharing)?{_NUMBER}{_PLACE}"
        r"(?: reuse allowed)?",
        _cc_words,
    ),
    (
        r"(?:gnu )?(?P<kind>affero |lesser |library |a|l)?(?:gpl|general public licen[cs]e)"
        r"(?: ?v?(?:ersion )?(?P<version>\d(?:\.\d)?))?(?P<later> only|\+| or later| or any later version)?",
        lambda m, t: _gnu((m["kind"] or "")[:1].upper(), _number(m), m["later"] not in (None, " only"), t),
    ),
    (r"(?:free art licen[cs]e|licen[cs]e art libre)(?: 1\.3)?", lambda m, t: _spdx("LAL-1.3")),
    ("|".join(map(re.escape, sorted(_SPDX_LOWER, key=len, reverse=True))), lambda m, t: _spdx(_SPDX_LOWER[m[0]])),
    (
        r"some rights reserved|no rights reserved|licen[cs]ed|licen[cs]es?|released|under|the|an?|this|work|is|in",
        lambda m, t: None,
    ),
)
_PHRASES = [(re.compile(rf"(?:{pattern})(?![\w+.])"), reader) for pattern, reader in _GRAMMAR]


def by_words(part: str, text: str) -> list[Licence]:
    """The licences that these words name, every word of them understood."""
    words = _SIGNS.sub(" ", part)
    words = " ".join(words.split())
    for pattern, name in _JOINED:
        words = pattern.sub(name, words)
    found: list[Licence] = []
    at = 0
    while at < len(words):
        for pattern, reader in _PHRASES:
            match = pattern.match(words, at)
            if match:
                licence = reader(match, text)
                found += [licence] if licence else []
                at = match.end() + 1
                break
        else:
            if "all rights reserved" in words:
                raise unparsed(text, "all rights reserved: it allows nothing")
            raise unparsed(text, f"{words[at : at + 40]!r} is not understood")
    return found


def unparsed(text: str, why: str) -> PartimentoError:
    shown = text if len(text) <= 120 else text[:120] + "..."
    return PartimentoError(
        "LICENCE001",
        "the licence cannot be parsed",
        where=shown,
        why=why,
        next="give its URI, such as https://creativecommons.org/licenses/by/4.0/, or its SPDX id",
    )
