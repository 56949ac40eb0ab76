"""A trained run plays: files over a grid of settings, audio while it is played, and what was played before again."""

from partimento.play.again import again
from partimento.play.make import sample
from partimento.play.streaming import play_codes, stream

__all__ = ["again", "play_codes", "sample", "stream"]
