"""A change of labels names every label that vanishes and every new one."""

from pathlib import Path

from serving.release.label_change import label_change, labels_of


def test_labels_that_vanish_and_new_ones_are_told_apart() -> None:
    change = label_change(frozenset({"refund", "track", "cancel"}), frozenset({"track", "invoice"}))
    assert change == (("cancel", "refund"), ("invoice",))
    gone, new = change.describe()
    assert "2 labels" in gone
    assert "`cancel`, `refund`" in gone
    assert "1 labels" in new
    assert "`invoice`" in new


def test_equal_labels_are_no_change() -> None:
    change = label_change(frozenset({"a", "b"}), frozenset({"b", "a"}))
    assert change.describe() == []


def test_of_many_labels_the_first_are_named_and_the_rest_is_counted() -> None:
    (gone,) = label_change(frozenset(f"l{n:03d}" for n in range(150)), frozenset()).describe()
    assert "these 150 labels" in gone
    assert gone.endswith("`l019` and 130 more")


def test_the_labels_of_a_folder_without_any_are_none(tmp_path: Path) -> None:
    assert labels_of(tmp_path) == labels_of(None) == frozenset()
    (tmp_path / "labels.txt").write_text("b\na\n")
    assert labels_of(tmp_path) == {"a", "b"}
