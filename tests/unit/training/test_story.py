from distgen.training.story import attempts, health_section, summary


def event(kind, images_seen, **facts):
    common = {"signal": "mode collapse", "value": 0.01, "threshold": 0.08, "action": "warned"}
    return {"event": kind, "images_seen": images_seen, **common, **facts}


BACK = {
    "to": 200, "action": "back to 200 images", "learning_rate_factor": 0.5,
    "penalty_factor": 2.0, "penalty_floor": 0.3,
}  # fmt: skip
STORY = [
    {"event": "started", "images_seen": 0},
    event("step skipped", 100, value=2),
    {"event": "checkpoint", "images_seen": 200},
    event("warning", 300),
    event("rolled back", 400, **BACK),
    {"event": "resumed", "images_seen": 200},
    event("stopped early", 700, meaning="<b>"),
    {"event": "finished", "images_seen": 700},
]


def test_a_run_is_cut_at_its_rollbacks():
    rows = attempts(STORY)
    assert [(row.start, row.end) for row in rows] == [(0, 400), (200, 700)]
    assert [[mark["event"] for mark in row.marks] for row in rows] == [
        ["step skipped", "warning", "rolled back"],
        ["stopped early"],
    ]


def test_a_calm_run_has_a_calm_sentence_and_nothing_else():
    calm = [{"event": "started", "images_seen": 0}, {"event": "finished", "images_seen": 9}]
    assert health_section(calm, 80, 1_000) == "<p>Nothing was amiss in 80 looks.</p>"
    assert summary([], 0) == "Nothing was amiss."


def test_the_story_counts_what_was_done_and_says_how_gentle_the_run_is_now():
    text = summary(STORY, 50)
    assert text.startswith("2 skipped steps, 1 warning, 1 roll-back in 50 looks.")
    assert "learning rate is 0.5 times" in text
    assert "stopped early" in text


def test_the_section_shows_every_event_and_no_foreign_markup():
    section = health_section(STORY, 50, 1_000)
    for text in ("mode collapse", "back to 200 images", "1,000 images", "<svg"):
        assert text in section
    assert "<b>" not in section
