import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffcse.errors import UserError
from diffcse.evaluation.senteval import Reading, read_sts_benchmark, read_tasks, stsb_split
from diffcse.evaluation.tasks import ALL_TASKS, Labelled, LabelledPairs, ScoredPairs, Task
from tests.evaluation.layout import Layout

OFFICIAL = {
    "STS12": {"scored": 3108},
    "STS13": {"scored": 1500},
    "STS14": {"scored": 3750},
    "STS15": {"scored": 3000},
    "STS16": {"scored": 1186},
    "STSBenchmark": {"train": 5749, "dev": 1500, "test": 1379},
    "SICKRelatedness": {"train": 4500, "dev": 500, "test": 4927},
    "MR": {"all": 10662},
    "CR": {"all": 3775},
    "MPQA": {"all": 10606},
    "SUBJ": {"all": 10000},
    "SST2": {"train": 67349, "dev": 872, "test": 1821},
    "TREC": {"train": 5452, "test": 500},
    "MRPC": {"train": 4076, "test": 1725},
}


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    return Layout(tmp_path, at_most=12).write()


def read(layout: Layout, *names: str) -> Reading:
    return read_tasks(layout.root, names or ALL_TASKS, official_rows=layout.at_most is None, train_splits=True)


def size(part: object) -> int:
    return len(part.scores if isinstance(part, ScoredPairs) else part.labels)


def sizes(task: Task) -> dict[str, int]:
    results = {name: size(part) for name, part in task.parts.items()}
    return {"scored": sum(results.values())} if task.name.startswith("STS1") else results


def test_reads_every_task_at_the_official_sizes(official: Layout) -> None:
    reading = read(official)
    assert reading.problems == ()
    assert {task.name: sizes(task) for task in reading.tasks} == OFFICIAL
    assert tuple(task.name for task in reading.tasks) == ALL_TASKS


def test_the_subsets_are_sentevals(official: Layout) -> None:
    tasks = {task.name: list(task.parts) for task in read(official).tasks}
    assert tasks["STS12"] == ["MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"]
    assert tasks["STS13"] == ["FNWN", "headlines", "OnWN"]
    assert tasks["STS14"] == ["deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"]
    assert tasks["STS15"] == ["answers-forums", "answers-students", "belief", "headlines", "images"]
    assert tasks["STS16"] == ["answer-answer", "headlines", "plagiarism", "postediting", "question-question"]


def test_train_splits_of_cosine_tasks_are_read_only_when_asked_for(small: Layout) -> None:
    reading = read_tasks(small.root, ("STSBenchmark", "SICKRelatedness", "SST2"), official_rows=False)
    assert [list(task.parts) for task in reading.tasks] == [["dev", "test"], ["dev", "test"], ["train", "dev", "test"]]


def test_pairs_without_a_score_are_dropped(small: Layout) -> None:
    folder = small.path("STS", "STS13-en-test")
    (folder / "STS.input.FNWN.txt").write_text("a b\tc\nno score\there\nd\te  f \n", encoding="utf-8")
    (folder / "STS.gs.FNWN.txt").write_text("1.5\n\n4\n", encoding="utf-8")
    pairs = read(small, "STS13").tasks[0].parts["FNWN"]
    assert isinstance(pairs, ScoredPairs)
    assert (pairs.first, pairs.second) == (["a b", "d"], ["c", "e f"])
    np.testing.assert_array_equal(pairs.scores, [1.5, 4.0])


def test_stsb_columns_quotes_and_white_space(tmp_path: Path) -> None:
    path = tmp_path / "sts-dev.csv"
    path.write_text('g\tf\t2012\t7\t3.25\t"A  dog \tit \'s " fine\tmore\tcolumns\n', encoding="utf-8")
    pairs = read_sts_benchmark(path)
    assert (pairs.first, pairs.second, pairs.scores.tolist()) == (['"A dog'], ["it 's \" fine"], [3.25])


def test_two_class_files_are_latin_1_and_positive_comes_first(small: Layout) -> None:
    small.path("MR", "rt-polarity.pos").write_bytes(b"caf\xe9 na\xefve\n")
    small.path("MR", "rt-polarity.neg").write_bytes(b"dull .\n")
    data = read(small, "MR").tasks[0].parts["all"]
    assert isinstance(data, Labelled)
    assert data.texts == ["café naïve", "dull ."]
    assert data.labels.tolist() == [1, 0]


def test_objective_is_class_1_of_subj(small: Layout) -> None:
    small.path("SUBJ", "subj.objective").write_bytes(b"he walks .\n")
    small.path("SUBJ", "subj.subjective").write_bytes(b"i loved it\n")
    data = read(small, "SUBJ").tasks[0].parts["all"]
    assert isinstance(data, Labelled)
    assert dict(zip(data.texts, data.labels.tolist(), strict=True)) == {"he walks .": 1, "i loved it": 0}


def test_trec_drops_the_fine_class_and_reads_latin_1(small: Layout) -> None:
    small.path("TREC", "TREC_10.label").write_bytes(b"NUM:dist How far is it : 5 ?\nHUM:ind Who is Andr\xe9 ?\n")
    test = read(small, "TREC").tasks[0].parts["test"]
    assert isinstance(test, Labelled)
    assert test.texts == ["How far is it : 5 ?", "Who is André ?"]
    assert test.labels.tolist() == [5, 3]


def test_mrpc_keeps_case_and_skips_the_header(small: Layout) -> None:
    path = small.path("MRPC", "msr_paraphrase_test.txt")
    path.write_text(
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t5\t6\t"He" said.\tHe  said so.\n', encoding="utf-8"
    )
    test = read(small, "MRPC").tasks[0].parts["test"]
    assert isinstance(test, LabelledPairs)
    assert (test.first, test.second, test.labels.tolist()) == (['"He" said.'], ["He said so."], [1])


def test_windows_line_ends_and_a_missing_last_one(small: Layout) -> None:
    path = small.path("SST", "binary", "sentiment-dev")
    path.write_bytes(b"good film\t1\r\nbad film\t0")
    dev = read(small, "SST2").tasks[0].parts["dev"]
    assert isinstance(dev, Labelled)
    assert (dev.texts, dev.labels.tolist()) == (["good film", "bad film"], [1, 0])


def test_a_line_break_of_unicode_is_text_unless_the_count_says_otherwise(official: Layout, tmp_path: Path) -> None:
    shutil.copytree(official.path("CR"), tmp_path / "downstream" / "CR")
    path = tmp_path / "downstream" / "CR" / "custrev.pos"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0] + b"\x85 more", *lines[1:]]))
    data = read_tasks(tmp_path, ["CR"]).tasks[0].parts["all"]
    assert isinstance(data, Labelled) and data.texts[0].endswith(" more")
    path.write_bytes(b"\n".join([lines[0] + b"\x85" + lines[1], *lines[2:]]))
    assert read_tasks(tmp_path, ["CR"]).problems == ()


# --- damage --------------------------------------------------------------------------------------------------------

STS12 = ("STS", "STS12-en-test")
FILES = {
    "STS12": (*STS12, "STS.input.MSRvid.txt"),
    "STS13": ("STS", "STS13-en-test", "STS.gs.OnWN.txt"),
    "STS14": ("STS", "STS14-en-test", "STS.gs.images.txt"),
    "STS15": ("STS", "STS15-en-test", "STS.input.belief.txt"),
    "STS16": ("STS", "STS16-en-test", "STS.gs.plagiarism.txt"),
    "STSBenchmark": ("STS", "STSBenchmark", "sts-test.csv"),
    "SICKRelatedness": ("SICK", "SICK_trial.txt"),
    "MR": ("MR", "rt-polarity.neg"),
    "CR": ("CR", "custrev.pos"),
    "MPQA": ("MPQA", "mpqa.neg"),
    "SUBJ": ("SUBJ", "subj.subjective"),
    "SST2": ("SST", "binary", "sentiment-dev"),
    "TREC": ("TREC", "TREC_10.label"),
    "MRPC": ("MRPC", "msr_paraphrase_train.txt"),
}
UTF8 = [name for name in ALL_TASKS if name not in ("MR", "CR", "MPQA", "SUBJ", "TREC")]


def remove(path: Path) -> None:
    path.unlink()


def last_row_lost(path: Path) -> None:
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-2]) + b"\n")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def utf_16(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode("latin-1").encode("utf-16-le"))


def latin_1(path: Path) -> None:
    content = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([content[0] + b" caf\xe9", *content[1:]]))


def tabs_lost(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"\t", b" ").replace(b":", b" "))


DAMAGE = {
    remove: "an existing file",
    last_row_lost: "must be a (file of|pair for)",
    emptied: "must be a (file of|file with|pair for)",
    folder_instead: "a readable file",
    utf_16: "NUL bytes|utf-8 text",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ALL_TASKS)
def test_damage_is_one_line_with_file_and_task_and_the_others_still_run(
    official: Layout, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    other = "STS13" if name != "STS13" else "STS16"
    root = tmp_path / "data"
    for task in (name, other):
        folder = official.path(*FILES[task]).parent
        shutil.copytree(folder, root / folder.relative_to(official.root))
    damage(root / "downstream" / Path(*FILES[name]))
    reading = read_tasks(root, [name, other])
    (problem,) = reading.problems
    assert problem.task == name and problem.line.startswith(f"{name}: ")
    assert "\n" not in problem.line
    files = [FILES[name][-1]]
    if name.startswith("STS1"):  # a subset is two files, and either may be the short one
        files.append(
            files[0].replace("STS.input", "STS.gs") if "input" in files[0] else files[0].replace(".gs.", ".input.")
        )
    assert any(file in problem.line for file in files)
    with pytest.raises(UserError, match=DAMAGE[damage]):
        raise problem.error
    still = [task.name for task in reading.tasks]
    splits_stay = name in ("STSBenchmark", "SICKRelatedness")
    assert still == [task for task in ALL_TASKS if task == other or (task == name and splits_stay)]


@pytest.mark.parametrize("name", UTF8)
def test_another_encoding_is_named(small: Layout, name: str) -> None:
    path = small.path(*FILES[name])
    latin_1(path)
    (problem,) = read(small, name).problems
    assert FILES[name][-1] in problem.line and "utf-8 text; got byte 0xe9 at offset" in problem.line


@pytest.mark.parametrize("name", ["STS12", "STS15", "STSBenchmark", "SICKRelatedness", "SST2", "TREC", "MRPC"])
def test_missing_columns_are_named_with_their_line(small: Layout, name: str) -> None:
    tabs_lost(small.path(*FILES[name]))
    (problem,) = read(small, name).problems
    line = 2 if name in ("SICKRelatedness", "MRPC") else 1
    assert f"{FILES[name][-1]}, line {line}," in problem.line
    assert "columns with tabs between" in problem.line or "COARSE:fine" in problem.line


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("STS13", b"", b"four"),
        ("STS13", b"", b"5.5"),
        ("STS13", b"", b"-1"),
        ("STS13", b"", b"nan"),
        ("STSBenchmark", b"\t0000\t", b"\t0000\tx"),
        ("SICKRelatedness", b"\tNEUTRAL", b"x\tNEUTRAL"),
        ("SST2", b"\t0\n", b"\t2\n"),
        ("TREC", b"ABBR:", b"OTHER:"),
        ("MRPC", b"\n0\t", b"\n3\t"),
    ],
)
def test_a_bad_score_or_label_is_named_with_its_line(small: Layout, name: str, good: bytes, bad: bytes) -> None:
    path = small.path(*FILES[name])
    content = path.read_bytes()
    broken = content.replace(good, bad, 1) if good else bad + content[content.index(b"\n") :]
    assert broken != content
    path.write_bytes(broken)
    (problem,) = read(small, name).problems
    assert f"{name}: " in problem.line and f"{FILES[name][-1]}, line " in problem.line
    with pytest.raises(UserError, match=r"must be a (score from \d to 5|label among)"):
        raise problem.error


@pytest.mark.parametrize("file", ["STS.input.MSRvid.txt", "STS.gs.MSRvid.txt"])
def test_an_absent_subset_takes_its_task_out_and_no_other(small: Layout, file: str) -> None:
    small.path(*STS12, file).unlink()
    reading = read(small)
    (problem,) = reading.problems
    assert problem.task == "STS12" and problem.part is None and file in problem.line
    assert [task.name for task in reading.tasks] == [name for name in ALL_TASKS if name != "STS12"]


def test_scores_that_do_not_fit_the_pairs_are_named(small: Layout) -> None:
    path = small.path(*STS12, "STS.gs.MSRvid.txt")
    path.write_text(path.read_text() + "3.0\n")
    (problem,) = read(small, "STS12").problems
    assert "STS.input.MSRvid.txt" in problem.line and "12 pairs and 13 scores in STS.gs.MSRvid.txt" in problem.line


def test_a_missing_split_leaves_the_others(small: Layout) -> None:
    small.path("SICK", "SICK_test_annotated.txt").unlink()
    (task,) = (reading := read(small, "SICKRelatedness")).tasks
    assert (list(task.parts), task.absent) == (["train", "dev"], ("test",))
    (problem,) = reading.problems
    assert (problem.task, problem.part) == ("SICKRelatedness", "test")
    assert "SICK_test_annotated.txt must be an existing file; got none; SICKRelatedness needs it" in problem.line
    assert problem.line.endswith("; scored without it: SICKRelatedness train, dev")


def test_no_split_at_all_is_no_task(small: Layout) -> None:
    shutil.rmtree(small.path("SICK"))
    reading = read(small, "SICKRelatedness", "MR")
    assert [task.name for task in reading.tasks] == ["MR"]
    assert len(reading.problems) == 3 and not any("without it" in problem.line for problem in reading.problems)


@pytest.mark.parametrize(("folder", "got"), [("", "a folder without it"), ("nowhere", "no such folder")])
def test_a_folder_that_is_not_sentevals(tmp_path: Path, folder: str, got: str) -> None:
    with pytest.raises(UserError, match=f"must be a folder that holds downstream/; got {got}; .*SentEval's file"):
        read_tasks(tmp_path / folder)


def test_an_unknown_task(small: Layout) -> None:
    with pytest.raises(UserError, match=r"task must be one of STS12, .*; got STS17"):
        read_tasks(small.root, ["STS17"])


def test_the_dev_file_that_checkpoints_are_chosen_by(official: Layout, small: Layout) -> None:
    assert len(stsb_split(official.root, "dev").scores) == 1500
    with pytest.raises(UserError, match=r"STSBenchmark: .*sts-dev.csv must be a file of 1500 rows; got 12"):
        stsb_split(small.root, "dev")


def test_the_real_files(shared: Path) -> None:
    reading = read_tasks(shared / "senteval", train_splits=True)
    results = {task.name: sizes(task) for task in reading.tasks}
    assert results == {
        name: {part: n for part, n in OFFICIAL[name].items() if (name, part) != ("SICKRelatedness", "test")}
        for name in results
    }
    assert set(results) == {"STS12", "STS13", "STSBenchmark", "SICKRelatedness", "MR", "SST2", "MRPC"}
