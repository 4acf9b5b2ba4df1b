"""The bar of a command: it moves within a part, and stands where the part ends."""

from faithfulness_plugin.cli.terminal import Lines


def test_the_bar_moves_within_a_part_and_ends_where_the_part_does(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    lines, seen = Lines(3, 1, "parts", cost=10.0), list[float]()
    (bar,) = lines.bar.tasks
    for act in (
        lambda: lines.within(3.0),
        lambda: lines.show("first", cost=4.0),
        lambda: lines.within(5.0),
        lambda: lines.show("last", cost=6.0),
    ):
        act()
        seen.append(bar.completed)
    assert seen == [3, 4, 9, 10]


def test_where_there_is_no_terminal_nothing_is_drawn_and_parts_have_lines(capsys):
    with Lines(2, 0, "parts") as lines:
        lines.tell("begins")
        lines.show("first")
    assert capsys.readouterr().err == "begins\n[1/2] first\n"
