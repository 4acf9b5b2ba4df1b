from faithfulness_plugin.differences import differences, with_size, without_size


def test_only_what_differs_is_named():
    assert differences({"a": 1, "b": "x", "gone": 0}, {"a": 1, "b": "y", "c": 2}) == "b x, not y; c None, not 2"
    assert differences({"a": 1}, {"a": 1}) == ""


def test_sizes_are_compared_as_numbers():
    """Another processor may round the last digit differently."""
    one, near, far = (with_size("a to b", size) for size in (1.23449, 1.23451, 1.25))
    assert one == "a to b, size 1.234"
    assert one != near
    assert without_size(one) == without_size(far) == "a to b"
    assert differences({"layer": one}, {"layer": near}) == ""
    assert differences({"layer": one}, {"layer": far}) == "layer a to b, size 1.234, not a to b, size 1.25"
    assert differences({"layer": one}, {"layer": one.replace("b", "c")})
    assert differences({"layer": one}, {"layer": "a to b"})
    assert differences({"n": 1000}, {"n": 1001}) == "n 1000, not 1001"
