"""A name leads to a built-in, an installed entry point or a dotted path."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from llmservingsim import plugins
from llmservingsim.errors import PluginError
from llmservingsim.plugins import find_plugin, make_plugin

BUILTINS = {"round_robin": list, "least_loaded": dict}


class Own:
    """A user's own."""


@pytest.fixture
def installed(monkeypatch):
    entries = {
        "sticky": EntryPoint("sticky", f"{__name__}:Own", "llmservingsim.router"),
        "broken": EntryPoint("broken", "no_such_package.router:Router", "llmservingsim.router"),
        "round_robin": EntryPoint("round_robin", f"{__name__}:Own", "llmservingsim.router"),
    }
    monkeypatch.setattr(plugins, "entry_points", lambda group: EntryPoints(entries.values()).select(group=group))


def test_a_built_in_is_found_by_its_name():
    assert find_plugin("router", "round_robin", BUILTINS) is list


def test_a_dotted_path_is_imported():
    assert find_plugin("router", f"{__name__}:Own", BUILTINS) is Own


@pytest.mark.usefixtures("installed")
def test_an_entry_point_is_found_in_the_group_of_its_kind():
    assert find_plugin("router", "sticky", BUILTINS) is Own
    with pytest.raises(PluginError, match="scheduler: 'sticky' is unknown"):
        find_plugin("scheduler", "sticky", BUILTINS)


@pytest.mark.usefixtures("installed")
def test_a_built_in_cannot_be_replaced_by_what_is_installed():
    assert find_plugin("router", "round_robin", BUILTINS) is list


@pytest.mark.usefixtures("installed")
def test_an_unknown_name_lists_built_ins_and_entry_points():
    with pytest.raises(PluginError, match=r"'stiky' is unknown \(did you mean 'sticky'\?\)") as raised:
        find_plugin("router", "stiky", BUILTINS)
    assert "expected one of broken, least_loaded, round_robin, sticky, or your own class" in str(raised.value)


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_cannot_be_imported_is_a_plugin_error():
    with pytest.raises(
        PluginError, match=r"router: cannot load the entry point 'broken', 'no_such_package\.router:Router': No"
    ):
        find_plugin("router", "broken", BUILTINS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package.x:Router", r"router: cannot import 'no_such_package\.x' of 'no_such_package\.x:Router'"),
        (f"{__name__}:Onw", r"module '.*test_plugins' has no 'Onw' \(did you mean 'Own'\?\)"),
        (":Router", r"expected 'package\.module:Class', got ':Router'"),
        ("package.module:", r"expected 'package\.module:Class', got 'package\.module:'"),
        (".relative:Router", r"expected 'package\.module:Class', got '\.relative:Router'"),
    ],
)
def test_a_dotted_path_that_leads_nowhere_says_where_it_ends(name, message):
    with pytest.raises(PluginError, match=message):
        find_plugin("router", name, BUILTINS)


def test_a_failure_inside_the_users_module_is_shown_as_it_is(tmp_path, monkeypatch):
    """It is the user's bug, with a traceback into the user's file, and not a missing class."""
    (tmp_path / "failing_router_module.py").write_text("import math\nmath.no_such_function()\nclass Router: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(AttributeError, match="no_such_function"):
        find_plugin("router", "failing_router_module:Router", BUILTINS)
    assert "failing_router_module" not in sys.modules


class Mute:
    """Has no method at all."""


def test_what_is_built_must_have_the_methods_that_will_be_called() -> None:
    with pytest.raises(PluginError, match=r"router: 'mute' has no method 'route'"):
        make_plugin("router", "mute", {"mute": Mute}, (), ("route",))


def test_what_does_not_take_the_arguments_is_named() -> None:
    with pytest.raises(PluginError, match=r"router: 'mute' cannot be built from 2 arguments"):
        make_plugin("router", "mute", {"mute": Mute}, (1, 2), ())


def test_options_are_keyword_arguments() -> None:
    assert make_plugin("router", "dict", {"dict": dict}, (), (), {"a": 1}) == {"a": 1}
    with pytest.raises(PluginError, match=r"router: 'mute' cannot be built from options a, b"):
        make_plugin("router", "mute", {"mute": Mute}, (), (), {"b": 1, "a": 2})
