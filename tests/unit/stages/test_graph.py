"""stages/graph.py on one shard of hand-made rows."""

from __future__ import annotations

from bcpg_cluster.stages.graph import data_stages, downstream, evaluation_stages, turns


def test_the_graph():
    data = data_stages({"llm": "judge.llm", "prm": "prm"})
    produced = ["prompts"]
    for stage in data:  # in an order in which it can be run
        assert set(stage.inputs) <= set(produced)
        produced.append(stage.output)
    assert downstream(data, "verdicts.llm") == ["verdicts.llm", "weighted"]
    assert downstream(data, "steps") == ["steps", "verdicts.llm", "verdicts.prm", "weighted"]
    assert downstream(data, "rollouts")[0] == "rollouts"
    assert set(downstream(data, "rollouts")) == {stage.output for stage in data}
    assert downstream(evaluation_stages(), "eval_outcomes") == ["eval_outcomes"]


def test_a_judge_that_comes_after_another_reads_its_verdicts():
    stages = data_stages({"prm": "prm", "llm": "judge.llm"}, {"llm": ["prm"]})
    llm = next(stage for stage in stages if stage.name == "judge.llm")
    assert llm.inputs == ("prompts", "steps", "verdicts.prm")
    assert downstream(stages, "verdicts.prm") == ["verdicts.prm", "verdicts.llm", "weighted"]
    assert [pool for pool, _ in turns(stages)] == ["rollout", "prm", "judge.llm"]
