import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from city.errors import DocumentError, InputError, SettingError
from city.settings import SETTINGS, Settings, resolve

SECRETS = [row.name for row in SETTINGS.values() if row.secret]
JUNE = datetime(2026, 6, 1, tzinfo=UTC)
JUNE_MS = 1_780_272_000_000


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a settings file."""

    def write_file(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write_file


class TestPrecedence:
    """Where a value is looked for."""

    def test_default(self) -> None:
        """Without anything given, every setting has its default."""
        assert Settings() == resolve({}, {})

    def test_file(self, write: Any) -> None:
        """The file is above the default."""
        assert 7 == resolve({}, {}, write("seed: 7")).seed

    def test_environment(self, write: Any) -> None:
        """The environment is above the file."""
        assert 8 == resolve({}, {"CITYEYE_SEED": "8"}, write("seed: 7")).seed

    def test_option(self, write: Any) -> None:
        """The command line is above the environment."""
        assert 9 == resolve({"seed": 9}, {"CITYEYE_SEED": "8"}, write("seed: 7")).seed

    def test_not_given(self) -> None:
        """An option that is not given and a variable that is empty do not count."""
        assert None is resolve({"seed": None}, {"CITYEYE_SEED": ""}).seed

    @pytest.mark.parametrize("source", ["option", "environment", "file"])
    def test_path(self, write: Any, source: str) -> None:
        """A path may stand in every source."""
        given = {"option": ({"data": Path("d")}, {}, None), "environment": ({}, {"CITYEYE_DATA": "d"}, None),
                 "file": ({}, {}, write("data: d"))}[source]  # fmt: skip

        assert Path("d") == resolve(*given).data

    def test_rules(self) -> None:
        """Several rule packs stand in one variable, parted by commas."""
        assert ("a", "b.yaml") == resolve({}, {"CITYEYE_RULES": "a,b.yaml"}).rules

    def test_empty_file(self, write: Any) -> None:
        """A settings file may be empty."""
        assert Settings() == resolve({}, {}, write("# nothing yet\n"))

    def test_unquoted_instant(self, write: Any) -> None:
        """An instant in the file needs no quotes."""
        settings = resolve({}, {}, write("start: 2026-06-01T08:00:00+08:00"))

        assert JUNE_MS == settings.start_ms(None, 0)


class TestRefused:
    """Values that are not allowed; the text begins with where they stand."""

    @pytest.mark.parametrize(
        ("name", "value", "problem"),
        [
            ("seed", "abc", "expected a whole number (found 'abc')"),
            ("speed", "0", "'0' is not allowed; give a number > 0 or 'max'"),
            ("speed", "nan", "'nan' is not allowed; give a number > 0 or 'max'"),
            ("for", "soon", "'soon' is not a duration of 1 ms to 100 years; give e.g. 90s"),
            ("start", "today", "'today' is not allowed; give 'now' or an instant with its offset"),
            ("start", "2026-06-01T08:00", "'2026-06-01T08:00' is not allowed; give 'now'"),
            ("patience_s", "-1", "expected a number > 0.0 (found '-1')"),
            ("patience_s", "nan", "expected a number > 0.0 (found 'nan')"),
            ("broker_port", "70000", "expected a whole number <= 65535 (found '70000')"),
            ("window", "0", "expected a whole number >= 1 (found '0')"),
            ("log", "loud", "expected one of debug, info, warning, error (found 'loud')"),
        ],
    )
    def test_value(self, write: Any, name: str, value: str, problem: str) -> None:
        """A value that is not allowed is refused wherever it stands, with what is allowed."""
        path = write(f"{name}: '{value}'")
        row = SETTINGS[name]
        told = []
        sources: tuple[Any, Any, Path | None]
        for sources in ({name: value}, {}, None), ({}, {row.variable: value}, None), ({}, {}, path):
            with pytest.raises(InputError) as caught:
                resolve(*sources)
            told.append(str(caught.value))

        places = (row.option, row.variable, f"{path}:1: {name}")
        assert [True] * 3 == [
            text.startswith(f"{place}: {problem}") for text, place in zip(told, places, strict=True)
        ]

    def test_unknown_variable(self) -> None:
        """A variable that is no setting is named, with the one that was probably meant."""
        with pytest.raises(
            SettingError, match="CITYEYE_SEDE: no such setting; did you mean 'CITYEYE_SEED'"
        ):
            resolve({}, {"CITYEYE_SEDE": "1"})  # fmt: skip

    def test_other_variables(self) -> None:
        """Variables of other programs are nobody's business."""
        assert Settings() == resolve({}, {"HOME": "/", "CITY": "x"})

    def test_unknown_key(self, write: Any) -> None:
        """An unknown key in the file is named with its line, and the key that was probably meant."""
        path = write("seed: 1\nsped: 2\n")
        with pytest.raises(
            DocumentError, match=f"{path}:2: sped: unknown key 'sped'; did you mean 'speed'"
        ):
            resolve({}, {}, path)  # fmt: skip

    def test_no_mapping(self, write: Any) -> None:
        """A settings file is a mapping of keys."""
        with pytest.raises(DocumentError, match="expected a mapping of keys, found list"):
            resolve({}, {}, write("- seed\n"))


class TestSecrets:
    """Where secrets come from, and where they never show."""

    @pytest.mark.parametrize("name", SECRETS)
    def test_environment(self, name: str) -> None:
        """A secret may stand in the environment."""
        settings = resolve({}, {f"CITYEYE_{name.upper()}": "s3cret"})

        assert "s3cret" == getattr(settings, name)

    @pytest.mark.parametrize("name", SECRETS)
    def test_held_in_file(self, name: str, tmp_path: Path) -> None:
        """A secret may stand in a file that the environment names, without its last newline."""
        held_in = tmp_path / "secret"
        held_in.write_text("s3cret\n")

        settings = resolve({}, {f"CITYEYE_{name.upper()}_FILE": str(held_in)})

        assert "s3cret" == getattr(settings, name)

    def test_missing_file(self, tmp_path: Path) -> None:
        """A secret's file that is not there is an error that names variable and file."""
        with pytest.raises(SettingError, match=r"CITYEYE_STORE_TOKEN_FILE: .*gone cannot be read"):
            resolve({}, {"CITYEYE_STORE_TOKEN_FILE": str(tmp_path / "gone")})

    @pytest.mark.parametrize("name", SECRETS)
    def test_settings_file(self, write: Any, name: str) -> None:
        """A secret in the settings file is refused, and not repeated."""
        with pytest.raises(DocumentError, match=f"{name}: a secret does not stand here") as caught:
            resolve({}, {}, write(f"{name}: s3cret"))

        assert "s3cret" not in str(caught.value)


class TestDuration:
    """How long a command works."""

    @pytest.mark.parametrize(
        ("text", "ms"),
        [("90", 90_000), ("90s", 90_000), ("1.5m", 90_000), ("2 h", 7_200_000), ("1d", 86_400_000),
         ("250ms", 250)],
    )  # fmt: skip
    def test_units(self, text: str, ms: int) -> None:
        """A duration is a number with a unit, and seconds without one."""
        assert ms == Settings(for_=text).duration_ms

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """Whatever is given is a duration above 0 or a setting error."""
        try:
            duration_ms = Settings(for_=text).duration_ms
        except SettingError:
            return

        assert duration_ms
        assert duration_ms > 0


class TestTime:
    """Where simulated time begins, and how fast it goes."""

    @pytest.mark.parametrize(("text", "speed"), [("1", 1.0), ("0.5", 0.5), ("max", math.inf)])
    def test_speed(self, text: str, speed: float) -> None:
        """Speed is a number, or as fast as it goes."""
        assert speed == Settings(speed=text).simulated_speed

    @pytest.mark.parametrize(
        ("settings", "start_ms"),
        [
            (Settings(), 5),
            (Settings(speed="10"), JUNE_MS),
            (Settings(speed="max", start="now"), 5),
            (Settings(start="2026-06-01T08:00:01+08:00"), JUNE_MS + 1000),
        ],
    )
    def test_start(self, settings: Settings, start_ms: int) -> None:
        """At speed 1 the city lives now, else at its own start, unless a start is given."""
        assert start_ms == settings.start_ms(JUNE, 5)
