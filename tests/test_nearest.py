"""Names that were probably meant, and how messages suggest them."""

from hypothesis import given
from hypothesis import strategies as st

from svd_engine.nearest import did_you_mean, in_sentences, no_such

NAMES = ["status", "jobs", "show", "cancel"]
TEXTS = st.lists(st.text(st.characters(categories=["L"]), min_size=1) | st.just("Meant 'x'?"))


def test_the_name_that_was_meant_is_a_question_after_the_message() -> None:
    assert did_you_mean("--sttus", NAMES) == ". Did you mean 'status'?"
    assert did_you_mean("xyzzy", NAMES) == ""
    assert no_such("command", "jbos", NAMES) == (
        "Unknown command 'jbos'. Did you mean 'jobs'? There is status, jobs, show, cancel"
    )
    assert no_such("command", "xyzzy", NAMES) == (
        "Unknown command 'xyzzy'. There is status, jobs, show, cancel"
    )


@given(TEXTS)
def test_sentences_hold_all_texts_and_end_before_the_next(texts: list[str]) -> None:
    joined = in_sentences(texts)
    assert [text.rstrip(".") for text in joined.split(" ") if "'x'" not in text] == (
        [word for text in texts for word in text.split(" ") if "'x'" not in word] or [""]
    )
    for text in texts[:-1]:
        assert f"{text}. " in joined or f"{text} " in joined
    assert "?." not in joined
    assert not joined.endswith(".")
