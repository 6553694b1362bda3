"""The names of the profiles."""

from lib.profiles import PROFILES
from lib.runtime import ROOT


def test_the_profiles_are_the_files_in_configs():
    assert sorted(PROFILES) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
