from faithfulness_plugin.differences import differences


def test_only_what_differs_is_named():
    assert differences({"a": 1, "b": "x", "gone": 0}, {"a": 1, "b": "y", "c": 2}) == "b x, not y; c None, not 2"
    assert differences({"a": 1}, {"a": 1}) == ""
