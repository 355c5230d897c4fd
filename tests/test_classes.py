"""Classes and tags: what a label means, how several people's make one, and how labels follow when
classes are renamed, merged and deleted."""

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, select

from tastemaker import projects, scores
from tastemaker.database import sessions
from tastemaker.database.tables import Label, ScoreEvent
from tastemaker.errors import Conflict, Invalid, NotFound
from tastemaker.library import duplication
from tastemaker.scores import class_changes, classes
from tests.conftest import add_images


class Scene:
    """A class project with images, and people who label them."""

    def __init__(self, session: Session, names: str = "photo, drawing, logo", **options: object):
        self.session = session
        split = classes.split_names(names)
        self.project = classes.create_project(session, "Kinds", split, **options)
        self.images = [image.id for image in add_images(session, 6, project=self.project)]

    def say(self, image: int, value: int | str, name: str = "ann") -> None:
        person = projects.annotator(self.session, name)
        scores.record(self.session, self.project, self.images[image], person, "set", value)

    def labels(self) -> dict[int, float]:
        rows = self.session.exec(select(Label).where(Label.project_id == self.project.id))
        by_image = {row.image_id: row.value for row in rows}
        return {n: by_image[i] for n, i in enumerate(self.images) if i in by_image}

    def named(self) -> dict[int, str]:
        known = classes.of(self.session, self.project.id)
        return {n: known.words(value) for n, value in self.labels().items()}


@pytest.fixture
def session(engine: Engine):
    with sessions.writing(engine) as session:
        yield session


def test_a_class_project_knows_its_classes_with_keys_and_colours(session):
    scene = Scene(session)
    assert (scene.project.kind, scene.project.labelling) == ("class", "classes")
    rows = classes.of(session, scene.project.id).alive
    assert [(row.name, row.key, row.colour) for row in rows] == [
        ("photo", "1", 0), ("drawing", "2", 1), ("logo", "3", 2),
    ]  # fmt: skip
    assert projects.summary(session, scene.project)["labelling"] == "classes"


@pytest.mark.parametrize(
    ("names", "several", "error"),
    [
        (["photo"], False, "at least two classes"),
        ([], True, "at least one tag"),
        (["photo", " Photo "], False, "Two classes would be called"),
        (["photo", ""], False, "1 to 60"),
        (["photo", "7"], False, "cannot be used for a class"),
        ([f"class {n}" for n in range(201)], False, "at most 200"),
        ([f"tag {n}" for n in range(33)], True, "at most 32"),
    ],
)
def test_classes_that_cannot_be_are_refused_and_no_project_is_made(session, names, several, error):
    with pytest.raises((Invalid, Conflict), match=error):
        classes.create_project(session, "Kinds", names, several=several)
    assert projects.find(session, "Kinds") is None


def test_two_hundred_classes_are_there_and_those_beyond_the_keys_have_none(session):
    project = classes.create_project(session, "Many", [f"class {n}" for n in range(200)])
    rows = classes.of(session, project.id).alive
    keys = [row.key for row in rows if row.key]
    assert len(rows) == 200 and len(set(keys)) == len(keys) == len(classes.KEYS)


def test_a_class_is_said_by_number_or_name_and_nothing_else_is_taken(session):
    scene = Scene(session)
    scene.say(0, 1)
    scene.say(1, "LOGO")
    assert scene.named() == {0: "drawing", 1: "logo"}
    for wrong in (3, -1, "sculpture", "", True, "9" * 5000):
        with pytest.raises(Invalid, match="is no class of this project"):
            scene.say(2, wrong)
    with pytest.raises(Invalid, match="no more or less"):
        person = projects.annotator(session, "ann")
        scores.record(session, scene.project, scene.images[2], person, "at_least", 1)
    assert scene.named() == {0: "drawing", 1: "logo"}


def test_a_score_project_takes_no_class_and_no_more_than_ten(session):
    project = projects.create(session, "Scores")
    (image,) = add_images(session, 1, project=project)
    person = projects.annotator(session, "ann")
    for wrong in (11, "photo"):
        with pytest.raises(Invalid, match="is not a score"):
            scores.record(session, project, image.id, person, "set", wrong)


def test_most_people_decide_and_of_a_tie_the_newest(session):
    scene = Scene(session)
    scene.say(0, "photo", "ann")
    scene.say(0, "drawing", "bob")
    assert scene.named() == {0: "drawing"}
    scene.say(0, "photo", "cleo")
    assert scene.named() == {0: "photo"}
    scores.undo(session, scene.project, projects.annotator(session, "cleo"))
    assert scene.named() == {0: "drawing"}


def test_tags_are_a_set_and_each_is_voted_on(session):
    scene = Scene(session, several=True)
    assert scene.project.labelling == "tags"
    scene.say(0, "photo, logo", "ann")
    scene.say(0, 0b101, "bob")
    assert classes.of(session, scene.project.id).parse("photo, photo, 0") == 0b001
    scene.say(0, "photo", "cleo")
    scene.say(1, 0, "ann")
    assert scene.named() == {0: "photo, logo", 1: "none of the tags"}
    with pytest.raises(Invalid, match="is no tag"):
        scene.say(2, 0b1000)


def test_merging_takes_the_labels_along_and_touches_no_event(session):
    scene = Scene(session)
    for image, name in enumerate(("photo", "drawing", "logo")):
        scene.say(image, name)
    before = [event.value for event in session.exec(select(ScoreEvent))]
    class_changes.merge(session, scene.project, 2, into=1)
    assert scene.named() == {0: "photo", 1: "drawing", 2: "drawing"}
    assert [event.value for event in session.exec(select(ScoreEvent))] == before
    scene.say(3, 2)  # on a page that was open before: nothing that was said is lost
    assert scene.named()[3] == "drawing"
    with pytest.raises(Invalid, match="is no class"):
        scene.say(4, "logo")
    with pytest.raises(Conflict, match="nothing to"):
        class_changes.merge(session, scene.project, 0, into=1)
    assert scores.rebuild_labels(session, scene.project) == 4


def test_a_deleted_class_leaves_its_images_without_a_label(session):
    scene = Scene(session)
    scene.say(0, "photo")
    scene.say(1, "logo")
    assert class_changes.delete(session, scene.project, 2) == 1
    assert scene.named() == {0: "photo"}
    scene.say(1, "drawing")
    assert scene.named() == {0: "photo", 1: "drawing"}
    scores.undo(session, scene.project, projects.annotator(session, "ann"))
    assert scene.named() == {0: "photo"}, "what is taken back is the class that is gone"


def test_a_merged_and_a_deleted_tag_follow_within_the_set(session):
    scene = Scene(session, several=True)
    scene.say(0, "photo, drawing, logo")
    class_changes.merge(session, scene.project, 1, into=2)
    assert scene.named() == {0: "photo, logo"}
    class_changes.delete(session, scene.project, 0)
    assert scene.named() == {0: "logo"}
    scene.say(1, 0b101)  # on a page that was open before
    assert scene.named()[1] == "logo"


def test_a_new_class_has_a_number_that_was_never_given(session):
    scene = Scene(session)
    class_changes.delete(session, scene.project, 2)
    made = class_changes.add(session, scene.project, "sketch")
    assert (made.number, made.key) == (3, "3")


def test_two_classes_of_one_name_or_key_are_refused(session):
    scene = Scene(session)
    with pytest.raises(Conflict, match="Two classes"):
        class_changes.change(session, scene.project, 0, name="Drawing")
    with pytest.raises(Conflict, match="already gives “drawing”"):
        class_changes.change(session, scene.project, 0, key="2")
    with pytest.raises(Invalid, match="weight"):
        class_changes.change(session, scene.project, 0, weight="much")
    with pytest.raises(NotFound):
        class_changes.change(session, scene.project, 9, name="x")
    with pytest.raises(Conflict, match="already gives"):
        class_changes.add(session, scene.project, "sketch", key="1")
    changed = class_changes.change(session, scene.project, 0, name="real", key="r", weight=2)
    assert (changed.name, changed.key, changed.weight) == ("real", "r", 2.0)
    plain = projects.create(session, "Scores")
    with pytest.raises(Conflict, match="has no classes"):
        class_changes.add(session, plain, "sketch")


def test_a_duplicate_has_the_classes_and_the_labels(session):
    scene = Scene(session)
    scene.say(0, "drawing")
    class_changes.change(session, scene.project, 1, name="painting")
    copy = duplication.duplicate_project(session, scene.project, "Again")
    known = classes.of(session, copy.id)
    (label,) = session.exec(select(Label).where(Label.project_id == copy.id))
    assert (copy.labelling, known.words(label.value)) == ("classes", "painting")
