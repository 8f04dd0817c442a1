"""Which failures count, who is tried alone, how long a group rests: by the ledger, without I/O."""

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.ledger.entry import Owner
from broker.ledger.ledger import Ledger
from broker.protocol import Blame, Role
from tests.broker.support import lease_all, make_group, make_rules, make_source, submit_group

LEARNER = ("learner", 1)
LONG_S = 1000.0


def server(name: str = "rollout-0", life: int = 1) -> Owner:
    return (name, life)


def make_ledger(num_samples: int = 32, groups_per_step: int = 16, **rules) -> Ledger:
    return Ledger(make_source(num_samples), make_rules(groups_per_step, 0, **rules))


def join(ledger: Ledger, owner: Owner) -> None:
    ledger.join(owner, Role.ROLLOUT)
    ledger.serve(owner, ledger.history, ledger.version)


class Fleet:
    """Servers that die whenever a poisoned sample is under way, and are started again."""

    def __init__(self, ledger: Ledger, poisoned: set[str], names: tuple[str, ...]) -> None:
        self.ledger = ledger
        self.poisoned = poisoned
        self.lives = dict.fromkeys(names, 1)
        self.tries: dict[str, int] = dict.fromkeys(poisoned, 0)
        self.now = 0.0
        self.deaths = 0
        for name in names:
            join(ledger, (name, 1))

    def work(self, capacity: int) -> bool:
        """Each server leases what it may, and dies or submits it. False: there was no work."""
        is_busy = False
        for name in self.lives:
            owner = (name, self.lives[name])
            leases = lease_all(self.ledger, owner, capacity, now=self.now)
            is_busy |= bool(leases)
            culprits = [x.sample.sample_id for x in leases if x.sample.sample_id in self.poisoned]
            for sample_id in culprits:
                self.tries[sample_id] += 1
            if culprits:
                self.die(owner)
            else:
                for granted in leases:
                    submit_group(self.ledger, owner, make_group(granted, self.ledger.version))
            self.ledger.check()
        self.now += LONG_S  # longer than any rest
        self.ledger.lapse(self.now)
        return is_busy

    def die(self, owner: Owner) -> None:
        self.deaths += 1
        self.ledger.leave(owner, "engine_lost", "the engine died (exit code 9)", self.now)
        self.lives[owner[0]] += 1
        join(self.ledger, (owner[0], self.lives[owner[0]]))


def test_an_engine_that_dies_of_one_of_16_costs_that_one_alone_by_its_third_death() -> None:
    ledger = make_ledger()
    poisoned = {ledger._groups._source.at(5).sample.sample_id}
    fleet = Fleet(ledger, poisoned, ("rollout-0",))
    while fleet.work(16):
        pass
    assert [r.sample_id for r in ledger.quarantine.records] == list(poisoned)
    (record,) = ledger.quarantine.records
    assert (record.where, record.attempts) == ("rollout", 3)
    assert record.reason == (
        "the engine died (exit code 9) (nothing else was under way on its server)"
    )
    assert fleet.deaths == 3 and fleet.tries == {record.sample_id: 3}
    assert len(ledger.needed()) == 16, "the others are there, and one more in its place"


@given(
    poison=st.sets(st.integers(0, 23), max_size=4),
    capacity=st.integers(1, 16),
    num_servers=st.integers(1, 3),
    max_attempts=st.integers(1, 4),
)
@settings(max_examples=60, derandomize=True)
def test_whatever_kills_engines_the_innocent_are_never_given_up(
    poison: set[int], capacity: int, num_servers: int, max_attempts: int
) -> None:
    ledger = make_ledger(24, 8, max_attempts=max_attempts)
    samples = [ledger._groups._source.at(i).sample.sample_id for i in range(24)]
    poisoned = {samples[i] for i in poison}
    names = tuple(f"rollout-{i}" for i in range(num_servers))
    fleet = Fleet(ledger, poisoned, names)
    trained: list[str] = []
    for _ in range(400):
        is_busy = fleet.work(capacity)
        shard = ledger.take(LEARNER, ledger.version + 1)
        if shard is not None and not shard.exhausted:
            trained += [entry.assignment.sample.sample_id for entry in shard.entries]
            ledger.acknowledge(LEARNER, shard.step, shard.batch_id, {})
            for name, life in fleet.lives.items():
                ledger.serve((name, life), ledger.history, ledger.version)
        elif shard is not None:
            break
        else:
            assert is_busy, "it stands still"
    else:
        raise AssertionError("the run does not end")
    given_up = {record.sample_id for record in ledger.quarantine.records}
    assert given_up <= poisoned and not set(trained) & poisoned
    assert len(trained) == (24 - len(given_up)) // 8 * 8
    assert all(tries <= max(2, max_attempts) for tries in fleet.tries.values())


def test_a_suspect_s_last_attempt_waits_for_an_idle_server_and_others_go_on() -> None:
    ledger = make_ledger(8, 4, max_attempts=2)
    join(ledger, server())
    lease_all(ledger, server(), 1)
    ledger.leave(server(), "member_lost", "rollout-0 was lost", 0.0)
    busy, idle = server("rollout-1"), server("rollout-2")
    for owner in (busy, idle):
        join(ledger, owner)
    (alone,) = lease_all(ledger, busy, 4)
    assert alone.alone and lease_all(ledger, busy, 4) == [], "nothing beside it"
    others = lease_all(ledger, idle, 4)
    assert [granted.alone for granted in others] == [False] * 3
    before = ledger.supply
    submit_group(ledger, busy, make_group(alone, 0))
    assert ledger.supply > before, "what waits for the server is looked at again"
    submit_group(ledger, idle, make_group(others[0], 0))
    assert ledger._groups.by_id[alone.group_id].failures == 0


def test_a_server_that_becomes_idle_is_given_the_suspect() -> None:
    ledger = make_ledger(8, 4, max_attempts=2)
    join(ledger, server())
    first, second = lease_all(ledger, server(), 2)
    ledger.give_back(server(), first.group_id, 0, Blame.SUSPECT, "no answer", 0.0)
    (third, fourth) = lease_all(ledger, server(), 4)
    assert first.group_id not in (third.group_id, fourth.group_id), "it is not alone here"
    for granted in (second, third):
        submit_group(ledger, server(), make_group(granted, 0))
        assert lease_all(ledger, server(), 4) == []
    before = ledger.supply
    submit_group(ledger, server(), make_group(fourth, 0))
    assert ledger.supply > before
    (again,) = lease_all(ledger, server(), 4)
    assert (again.group_id, again.alone) == (first.group_id, True)
    assert ledger.give_back(server(), again.group_id, 1, Blame.SUSPECT, "no answer", 0.0)


def test_lapses_count_and_the_last_one_must_be_alone() -> None:
    ledger = make_ledger(8, 2, max_attempts=3, lease_s=10.0)
    join(ledger, server())
    for attempt in range(3):
        now = 100.0 * attempt
        leases = lease_all(ledger, server(), 1, now=now)
        assert [(x.group_id, x.attempt, x.alone) for x in leases] == [
            ("0/0", attempt, attempt == 2)
        ]
        ledger.lapse(now + 10.0)
    (record,) = ledger.quarantine.records
    assert record.group_id == "0/0" and record.attempts == 3
    assert record.reason.startswith("no group came within broker.lease_s = 10 s")


def test_a_success_clears_a_suspect() -> None:
    ledger = make_ledger(8, 2)
    join(ledger, server())
    lease_all(ledger, server(), 1)
    ledger.lapse(LONG_S)
    (granted,) = lease_all(ledger, server(), 1, now=LONG_S)
    submit_group(ledger, server(), make_group(granted, 0))
    entry = ledger._groups.by_id[granted.group_id]
    assert (entry.failures, entry.returns, entry.is_suspect) == (0, 0, False)
    assert ledger.num_failures == 1 and ledger.retried == []


def test_leaving_in_good_order_makes_no_suspects() -> None:
    ledger = make_ledger(8, 2, max_attempts=1)
    join(ledger, server())
    lease_all(ledger, server(), 2)
    ledger.leave(server(), "member_left", "stopped", 0.0)
    join(ledger, server(life=2))
    leases = lease_all(ledger, server(life=2), 2)
    assert [granted.alone for granted in leases] == [False, False]
    assert ledger.num_failures == 0 and ledger.retried == []


def test_a_group_rests_twice_as_long_each_time_and_the_ledger_says_until_when() -> None:
    ledger = make_ledger(2, 1, max_attempts=9, first_rest_s=1.0)
    join(ledger, server())
    now, rests = 0.0, []
    for attempt in range(8):
        lease_all(ledger, server(), 1, now=now)
        ledger.give_back(server(), "0/0", attempt, Blame.SAMPLE, "HTTP 500", now)
        until = ledger.next_deadline()
        assert until is not None
        assert lease_all(ledger, server(), 1, now=until - 0.01) == [], "too early"
        before = ledger.supply
        ledger.lapse(until)
        assert ledger.supply > before and ledger.next_deadline() is None
        rests.append(until - now)
        now = until
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]


def test_those_behind_a_resting_group_need_not_wait() -> None:
    ledger = make_ledger(8, 2, first_rest_s=1.0)
    join(ledger, server())
    lease_all(ledger, server(), 1)
    ledger.give_back(server(), "0/0", 0, Blame.SAMPLE, "HTTP 500", 0.0)
    assert [granted.group_id for granted in lease_all(ledger, server(), 2)] == ["0/1"]
    assert [granted.group_id for granted in lease_all(ledger, server(), 2, now=1.0)] == ["0/0"]


def test_what_was_nobody_s_fault_is_done_again_at_once_but_not_in_a_hot_loop() -> None:
    ledger = make_ledger(8, 2, max_attempts=1, first_rest_s=1.0)
    join(ledger, server())
    for attempt, rest in enumerate((0.0, 1.0, 2.0)):
        now = 100.0 * attempt
        lease_all(ledger, server(), 1, now=now)
        assert not ledger.give_back(server(), "0/0", attempt, Blame.NOBODY, "a pause", now)
        assert ledger._groups.by_id["0/0"].rests_until == now + rest
        ledger.lapse(now + 99.0)


def test_later_epochs_leave_out_a_sample_that_was_given_up() -> None:
    source = make_source(4, epochs=3)
    ledger = Ledger(source, make_rules(2, 0, max_attempts=1))
    join(ledger, server())
    (broken,) = lease_all(ledger, server(), 1)
    assert ledger.give_back(server(), broken.group_id, 0, Blame.SAMPLE, "HTTP 400", 0.0)
    trained: list[str] = []
    while True:
        for granted in lease_all(ledger, server()):
            submit_group(ledger, server(), make_group(granted, ledger.version))
        shard = ledger.take(LEARNER, ledger.version + 1)
        if shard is None:
            continue
        if shard.exhausted:
            break
        trained += [entry.assignment.sample.sample_id for entry in shard.entries]
        ledger.acknowledge(LEARNER, shard.step, shard.batch_id, {})
        ledger.serve(server(), 0, ledger.version)
        ledger.check()
    assert broken.sample.sample_id not in trained and len(trained) == 8
    assert len(ledger.quarantine.records) == 1 and ledger.steps.left_over == 1


def test_a_rewind_undoes_the_learner_s_refusals_and_none_of_rollout_s() -> None:
    ledger = make_ledger(8, 2, max_attempts=1)
    join(ledger, server())
    (broken,) = lease_all(ledger, server(), 1)
    ledger.give_back(server(), broken.group_id, 0, Blame.SAMPLE, "HTTP 400", 0.0)
    for granted in lease_all(ledger, server()):
        submit_group(ledger, server(), make_group(granted, 0))
    shard = ledger.take(LEARNER, 1)
    assert shard is not None
    refused = {shard.entries[0].group_id: "prompt tokens differ"}
    ledger.acknowledge(LEARNER, 1, shard.batch_id, refused)
    assert [r.where for r in ledger.quarantine.records] == ["rollout", "learner"]
    assert ledger.quarantine.records[1].reason == "prompt tokens differ"
    ledger.rewind(("learner", 2), 0)
    assert [r.where for r in ledger.quarantine.records] == ["rollout"]
    assert ledger.quarantine.num_samples == 1


def test_groups_too_few_for_a_step_are_told_unless_max_steps_leaves_them_out() -> None:
    assert make_ledger(10, 4).steps.left_over == 2
    assert make_ledger(8, 4).steps.left_over == 0
    assert make_ledger(10, 4, max_steps=1).steps.left_over == 0
    assert make_ledger(10, 4, max_steps=5).steps.left_over == 2
