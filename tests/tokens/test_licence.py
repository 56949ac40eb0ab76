import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partimento.errors import PartimentoError
from partimento.tokens.licence import OBLIGATIONS, Allowed, parse, read

SHORT = {"by": "attribution", "nc": "non_commercial", "nd": "no_derivatives", "sa": "share_alike"}
CC = "https://creativecommons.org/"
# text, name, uri (below creativecommons.org or spdx.org), obligations
KNOWN = """
https://creativecommons.org/licenses/by/4.0/ | CC BY 4.0 | licenses/by/4.0/ | by
http://creativecommons.org/licenses/by-nc-sa/3.0/de/ | CC BY-NC-SA 3.0 DE | licenses/by-nc-sa/3.0/de/ | by nc sa
http://www.creativecommons.org/licenses/by-nc-nd/2.5 | CC BY-NC-ND 2.5 | licenses/by-nc-nd/2.5/ | by nc nd
https://creativecommons.org/licenses/by-nc-sa/4.0/deed.de | CC BY-NC-SA 4.0 | licenses/by-nc-sa/4.0/ | by nc sa
https://creativecommons.org/licenses/by/4.0/deed.zh_tw | CC BY 4.0 | licenses/by/4.0/ | by
https://creativecommons.org/licenses/by/3.0/us/legalcode | CC BY 3.0 US | licenses/by/3.0/us/ | by
https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1 | CC BY 4.0 | licenses/by/4.0/ | by
creativecommons.org/licenses/by-sa/2.1/jp/ | CC BY-SA 2.1 JP | licenses/by-sa/2.1/jp/ | by sa
http://creativecommons.org/licenses/nd-nc/1.0/ | CC ND-NC 1.0 | licenses/nd-nc/1.0/ | nc nd
https://creativecommons.org/publicdomain/zero/1.0/ | CC0 1.0 | publicdomain/zero/1.0/ |
https://creativecommons.org/publicdomain/zero/1.0/deed.en | CC0 1.0 | publicdomain/zero/1.0/ |
https://creativecommons.org/publicdomain/mark/1.0/ | Public Domain Mark 1.0 | publicdomain/mark/1.0/ |
http://creativecommons.org/licenses/publicdomain/ | Public Domain | |
http://creativecommons.org/licenses/sampling+/1.0/ | CC Sampling+ 1.0 | licenses/sampling+/1.0/ | by nc
Sampling+ | CC Sampling+ 1.0 | licenses/sampling+/1.0/ | by nc
CC NC-Sampling+ 1.0 | CC NonCommercial Sampling+ 1.0 | licenses/nc-sampling+/1.0/ | by nc
CC-BY-NC-4.0 | CC BY-NC 4.0 | licenses/by-nc/4.0/ | by nc
CC-BY-SA-3.0-DE | CC BY-SA 3.0 DE | licenses/by-sa/3.0/de/ | by sa
CC-BY-3.0-IGO | CC BY 3.0 IGO | licenses/by/3.0/igo/ | by
CC\u2011BY\u20114.0 | CC BY 4.0 | licenses/by/4.0/ | by
cc0-1.0 | CC0 1.0 | publicdomain/zero/1.0/ |
CC0 1.0 Universal | CC0 1.0 | publicdomain/zero/1.0/ |
Creative Commons 0 | CC0 1.0 | publicdomain/zero/1.0/ |
CC0 (Public Domain) | CC0 1.0 | publicdomain/zero/1.0/ |
CC-PDDC | CC-PDDC | CC-PDDC |
Public Domain | Public Domain | |
PD | Public Domain | |
MIT | MIT | MIT | by
MIT-0 | MIT-0 | MIT-0 |
https://opensource.org/licenses/MIT | MIT | MIT | by
GPL-2.0+ | GPL-2.0-or-later | GPL-2.0-or-later | by sa
GPLv3 | GPL-3.0-only | GPL-3.0-only | by sa
GNU General Public License version 3 | GPL-3.0-only | GPL-3.0-only | by sa
https://www.gnu.org/licenses/gpl-3.0.html | GPL-3.0-only | GPL-3.0-only | by sa
GNU Lesser General Public License v2.1 | LGPL-2.1-only | LGPL-2.1-only | by sa
GPL | GPL | | by sa
Free Art License 1.3 | LAL-1.3 | LAL-1.3 | by sa
CC BY-SA 3.0 | CC BY-SA 3.0 | licenses/by-sa/3.0/ | by sa
CC BY-SA 3.0 DE | CC BY-SA 3.0 DE | licenses/by-sa/3.0/de/ | by sa
CC BY-NC 4 | CC BY-NC 4.0 | licenses/by-nc/4.0/ | by nc
cc by nc sa | CC BY-NC-SA | | by nc sa
BY-NC-SA 4.0 | CC BY-NC-SA 4.0 | licenses/by-nc-sa/4.0/ | by nc sa
Attribution | CC BY | | by
Attribution Noncommercial | CC BY-NC | | by nc
Attribution-NonCommercial 4.0 International | CC BY-NC 4.0 | licenses/by-nc/4.0/ | by nc
Attribution-Noncommercial-Share Alike 3.0 United States | CC BY-NC-SA 3.0 | licenses/by-nc-sa/3.0/ | by nc sa
Attribution-NonCommercial-NoDerivatives (aka Music Sharing) 3.0 International | CC BY-NC-ND 3.0 | licenses/by-nc-nd/3.0/ | by nc nd
Attribution-Noncommercial-No Derivative Works 3.0 Unported | CC BY-NC-ND 3.0 | licenses/by-nc-nd/3.0/ | by nc nd
Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0) | CC BY-SA 4.0 | licenses/by-sa/4.0/ | by sa
Creative Commons Attribution license (reuse allowed) | CC BY | | by
CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/) | CC BY 4.0 | licenses/by/4.0/ | by
Licensed under CC BY 4.0. | CC BY 4.0 | licenses/by/4.0/ | by
2004 A Band. Some Rights Reserved. Licensed to the public under http://creativecommons.org/licenses/by/2.0/ verify at http://a.b/c | CC BY 2.0 | licenses/by/2.0/ | by
"""  # noqa: E501 - as they stand in the wild
CASES = [[cell.strip() for cell in line.split("|")] for line in KNOWN.strip().splitlines()]


@pytest.mark.parametrize(("text", "name", "uri", "codes"), CASES, ids=[case[0] for case in CASES])
def test_licences_in_use(text, name, uri, codes):
    found = parse(text)
    assert found.name == name
    assert set(found.obligations) == {SHORT[code] for code in codes.split()}
    base = CC if uri.startswith(("licenses", "publicdomain")) else "https://spdx.org/licenses/"
    assert found.uri == (None if not uri else base + uri if base == CC else f"{base}{uri}.html")
    assert parse(text.upper()).obligations == found.obligations
    if found.uri:  # the canonical forms are understood, and mean the same
        assert parse(found.uri).obligations == found.obligations
    assert parse(found.name).obligations == found.obligations


@pytest.mark.parametrize("version", ["1.0", "2.0", "2.1", "2.5", "3.0", "4.0"])
@pytest.mark.parametrize("parts", ["by", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa"])
def test_every_creative_commons_licence_by_uri_id_and_name(parts, version):
    words = {"by": "Attribution", "nc": "NonCommercial", "nd": "NoDerivs", "sa": "Share Alike"}
    names = "-".join(words[part] for part in parts.split("-"))
    texts = [f"{CC}licenses/{parts}/{version}/", f"CC-{parts.upper()}-{version}", f"{names} {version} Unported"]
    for text in [*texts, f"Creative Commons {names} {version} License"]:
        found = parse(text)
        assert set(found.obligations) == {SHORT[part] for part in parts.split("-")}
        assert found.uri is not None and f"/{version}/" in found.uri


@pytest.mark.parametrize(
    "text",
    [
        "All rights reserved",
        "CC0, all rights reserved",
        "all rights reserved. licensed to the public under http://creativecommons.org/licenses/by/2.0/",
        "© 2003 Foo Records",
        "CC BY 4.0, personal use only",
        "CC BY 4.0 NC",
        "CC BY 4.0 non-commercial",
        "CC BY 4.0 営利目的禁止",
        "CC BY 3.0 no commercial use",
        "CC BY 4.0 except ads",
        "CC BY 4.0 (https://creativecommons.org/licenses/by-nc/4.0/)",
        "CC BY 4.0 (https://creativecommons.org/licenses/by/3.0/)",
        "CC BY / CC BY-SA",
        "GPL-2.0 GPL-3.0",
        "MIT OR CC-BY-4.0",
        "CC BY-ND-SA",
        "CC BY-NC-ND-SA 4.0",
        "CC-NC",
        "NonCommercial",
        "Creative Commons",
        "CC",
        "BY",
        "not public domain",
        "non-GPL",
        "GPL-9.9",
        "MITX",
        "CC BYNC 4.0",
        "CC BY 4.00",
        "CC BY 4.0.1",
        "CC0 2.0",
        f"{CC}licenses/by/9.9/",
        f"{CC}licenses/by/3.0/zz/",
        f"{CC}licenses/by/4.0/de/",
        f"{CC}licenses/nc/4.0/",
        f"{CC}licenses/",
        "https://creativecommons.org.example.com/licenses/by/4.0/",
        "https://example.com/creativecommons.org/licenses/by/4.0/",
        "https://example.com/licence",
        "royalty free",
        "licence",
        "unknown",
        "-",
        "x" * 3000,
    ],
)
def test_what_is_not_understood_is_refused(text):
    with pytest.raises(PartimentoError, match="LICENCE001") as err:
        parse(text)
    assert err.value.why and len(err.value.where) < 200
    assert read(text) is None
    with pytest.raises(PartimentoError, match="LICENCE001"):
        Allowed(True, True, True, True).check(text)


# The words that could let something in that is forbidden, in any mixture.
PIECES = [
    "CC",
    "BY",
    "NC",
    "ND",
    "SA",
    "CC BY",
    "CC BY-NC",
    "4.0",
    "3.0",
    "CC0",
    "MIT",
    "no",
    "not",
    "non",
    "commercial",
]
PIECES += ["noncommercial", "all rights reserved", "public domain", "licensed to the public under", "Sampling+", "GPL"]
PIECES += [f"{CC}licenses/by-nc/4.0/", f"{CC}licenses/by/4.0/", "the", "licence", "+", "-", "/", "(", ")", "de", "©"]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join) | st.text(string.printable, max_size=60) | st.text())
def test_any_text_is_parsed_or_refused_and_nothing_said_is_lost(text):
    try:
        found = parse(text)
    except PartimentoError as err:
        assert err.code == "LICENCE001"
        return
    said = text.lower()
    assert "all rights reserved" not in said and "not" not in said.split()
    if "commercial" in said or "nc" in said.replace("-", " ").replace("/", " ").split():
        assert found.non_commercial
    assert not (found.no_derivatives and found.share_alike)


def test_what_is_allowed():
    assert Allowed.parse("attribution,share-alike") == Allowed() == Allowed.parse(" SA, by")
    assert Allowed.parse("none") == Allowed(False, False, False, False)
    assert str(Allowed()) == "attribution,share-alike" and str(Allowed.parse("none")) == "none"
    assert Allowed.parse(str(Allowed.parse("nc,by"))) == Allowed(True, True, False, False)
    for wrong in ("", "attribution,", "non-comercial", "none,by"):
        with pytest.raises(PartimentoError, match="LICENCE004"):
            Allowed.parse(wrong)
    with pytest.raises(PartimentoError, match="did you mean 'non-commercial'"):
        Allowed.parse("non-comercial")

    assert Allowed().check("CC BY-SA 4.0").share_alike
    with pytest.raises(PartimentoError, match="LICENCE002") as err:
        Allowed().check("CC BY-NC-ND 4.0")
    assert "non-commercial and no-derivatives" in err.value.why
    for nothing in (None, "", "  \n"):
        with pytest.raises(PartimentoError, match="LICENCE003"):
            Allowed().check(nothing)
    # A20: the earlier filter looked for "creativecommons" or "cc-by" in the text.
    for text in ("https://creativecommons.org/licenses/by-nd/4.0/", "CC-BY-ND-4.0", "CC-BY-NC-4.0"):
        with pytest.raises(PartimentoError, match="LICENCE002"):
            Allowed().check(text)


@given(st.sets(st.sampled_from(OBLIGATIONS)))
def test_allowed_is_exactly_what_was_named(names):
    allowed = Allowed(**{name: name in names for name in OBLIGATIONS})
    for parts in ("by", "by-nc", "by-nd", "by-sa", "by-nc-nd", "by-nc-sa"):
        wanted = {SHORT[part] for part in parts.split("-")}
        try:
            allowed.check(f"{CC}licenses/{parts}/4.0/")
            assert wanted <= names
        except PartimentoError as err:
            assert err.code == "LICENCE002" and not wanted <= names
