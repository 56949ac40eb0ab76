import numpy as np
import pytest

from partimento.errors import PartimentoError
from partimento.tokens import tags


def test_clean_and_multi_hot():
    assert tags.clean([" B  major", "", "drums", "B major", "b major"]) == ("B major", "drums", "b major")
    np.testing.assert_array_equal(tags.multi_hot(["b", "zz", "b"], ["a", "b"]), np.float32([0, 1]))


def test_unknown_tags_name_the_nearest():
    vocabulary = ["112 bpm", "drawbar organ", "drums", "nylon guitar"]
    assert tags.require(["drums ", "112 bpm"], vocabulary) == ("drums", "112 bpm")
    for wrong, right in (("drum", "drums"), ("guitar", "nylon guitar"), ("DRUMS", "drums")):
        with pytest.raises(PartimentoError, match="TOKEN003") as err:
            tags.require([wrong], vocabulary)
        assert repr(right) in err.value.message
    with pytest.raises(PartimentoError, match="TOKEN003"):
        tags.require(["drums"], [])
