"""All commands, by name only: the module of a command is imported when it is called."""

from __future__ import annotations

from cyclopts import App, Group

from swell import __version__

_SYSTEM = Group("Run", sort_key=1)
_FLEET = Group("Agents and messages", sort_key=2)
_LOOK = Group("Look", sort_key=3)

app = App(
    name="swell",
    help="Coordinates large fleets of agents: waves, batched messages over Redis Streams, nothing lost.",
    help_epilogue="Begin with `swell up`, then `swell spawn echo 100` in another terminal. Every command has --json.",
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,
)

for group, module, name, text in (
    (_SYSTEM, "up", "up", "Run the whole system on this machine, with a server of its own unless --redis is given."),
    (_SYSTEM, "serve", "manager", "Run one manager in the foreground."),
    (_SYSTEM, "serve", "worker", "Run one bus-worker in the foreground."),
    (_SYSTEM, "serve", "metrics", "Run the metrics service in the foreground."),
    (_FLEET, "fleet", "spawn", "Start agents in waves and wait until they are ready."),
    (_FLEET, "fleet", "terminate", "End agents: by id, by type, or all of a plan."),
    (_FLEET, "holds", "resize", "Have so many agents of a type: start the difference, or end it, in waves."),
    (_FLEET, "holds", "pause", "Begin no message of an agent or a type, or have a worker own no shard."),
    (_FLEET, "holds", "resume", "Take a pause, a drain or a quarantine back."),
    (_FLEET, "holds", "drain", "Pause once all that was sent before is handled."),
    (_FLEET, "holds", "quarantine", "Set agents apart that a condition holds for."),
    (_FLEET, "holds", "limit", "Limit how many agents of a type work at once, and its messages in a second."),
    (_FLEET, "talk", "send", "Send one message to an agent; returns when it is durable."),
    (_FLEET, "talk", "ask", "Send one message to an agent and print the handler's result."),
    (_FLEET, "tasks", "run", "Have whichever agent of a type is free do something; print parts and the result."),
    (_FLEET, "tasks", "map", "Have the agents of a type do something with each line of stdin."),
    (_FLEET, "tasks", "ask-many", "Ask many agents at once, and return when enough have answered."),
    (_FLEET, "talk", "cancel", "End a message that waits or is being handled, or a running plan."),
    (_FLEET, "topics", "publish", "Publish an event; each of its subscribers is sent a message."),
    (_FLEET, "topics", "broadcast", "Send a message to all agents of a type."),
    (_FLEET, "topics", "subscribe", "Have events call an agent's handler."),
    (_FLEET, "topics", "unsubscribe", "Take an agent's subscription back."),
    (_FLEET, "locks", "lock", "Run a command while a lock is held, or a seat of a semaphore."),
    (_FLEET, "locks", "lead", "Run a command while it leads: one at a time for each name."),
    (_FLEET, "locks", "barrier", "Wait until so many have come."),
    (_LOOK, "topics", "subscriptions", "List subscriptions that were made at run time."),
    (_LOOK, "look", "agents", "List agents and what they are doing now."),
    (_LOOK, "holds", "types", "List types that are paused, or limited at run time."),
    (_LOOK, "look", "plans", "List plans, or show one."),
    (_LOOK, "look", "workers", "List live processes: workers, managers, metrics services."),
    (_LOOK, "look", "shards", "List shards and who owns them."),
    (_LOOK, "look", "ledger", "Show the account of every shard; with --check, fail if one does not balance."),
    (_LOOK, "look", "alerts", "Show the alerts that fire, what they mean and what to do."),
    (_LOOK, "facts", "locks", "List locks, semaphores and leaders: who holds what, since when, under which token."),
    (_LOOK, "validate", "validate", "Run scenarios and hold what was measured against their targets."),
    (_LOOK, "doctor", "doctor", "Check the server and the services, and say what to do about what is wrong."),
):
    function = {"map": "map_bodies"}.get(name, name.replace("-", "_"))
    app.command(f"swell.cli.{module}:{function}", name=name, help=text, help_epilogue="", group=group)

bench = App(
    name="bench",
    help="Measure a system that is started for it, or with --redis a deployment whose workers run "
    "swell.bench.agents:app. Every part ends with the account of its messages.",
    help_format="plaintext",
    help_epilogue="",
    version_flags=(),
    group=_LOOK,
)
for name, text in (
    ("throughput", "Messages as fast as it goes, until the last is handled."),
    ("latency", "Due time to handler at given rates, open loop."),
    ("ask", "Round trips: ask, handler, answer."),
    ("spawn", "From the request until agents are ready: one, 100 at once, many."),
    ("fanout", "One message to each of many agents, until the last has handled it."),
    ("memory", "What an idle agent costs."),
    ("soak", "A rate for a long time: latency, memory and success over time."),
):
    bench.command(f"swell.cli.bench:{name}", name=name, help=text, help_epilogue="")
app.command(bench)

schedule = App(
    name="schedule",
    help="Messages at times to come: add a schedule, list what waits, remove one.",
    help_format="plaintext",
    help_epilogue="",
    version_flags=(),
    group=_FLEET,
)
for name, function, text in (
    ("add", "add", "Send an agent a message by a cron line, at intervals, or at a moment."),
    ("list", "list_scheduled", "List what waits for its time, those first that are due first."),
    ("remove", "remove", "Remove an agent's schedule."),
):
    schedule.command(f"swell.cli.timetable:{function}", name=name, help=text, help_epilogue="")
app.command(schedule)

tasks = App(
    name="tasks",
    help="Tasks: list them, show or follow one, cancel one.",
    help_format="plaintext",
    help_epilogue="",
    version_flags=(),
    group=_LOOK,
)
for name, function, text in (
    ("list", "list_tasks", "List tasks that wait, run, or ended and are kept, the newest first."),
    ("show", "show_task", "Show what is recorded of one task."),
    ("follow", "follow", "Wait for a task; print parts and the result."),
    ("cancel", "cancel_task", "End a task: it is not begun any more, or its handler is cancelled."),
):
    tasks.command(f"swell.cli.tasks:{function}", name=name, help=text, help_epilogue="")
app.command(tasks)

dead = App(
    name="dead",
    help="Dead letters, the messages that were given up: list them, show one, replay or drop them.",
    help_format="plaintext",
    help_epilogue="",
    version_flags=(),
    group=_LOOK,
)
for name, function, text in (
    ("list", "list_letters", "List dead letters, the newest first."),
    ("show", "show_letter", "Show one dead letter with its body, traceback and history."),
    ("replay", "replay_letters", "Send the messages of dead letters again, each once."),
    ("drop", "drop_letters", "Delete dead letters for good."),
):
    dead.command(f"swell.cli.dead:{function}", name=name, help=text, help_epilogue="")
app.command(dead)

facts = App(
    name="facts",
    help="Facts that agents share: get, put, swap, delete, list and watch them.",
    help_format="plaintext",
    help_epilogue="",
    version_flags=(),
    group=_FLEET,
)
for name, function, text in (
    ("get", "get", "Show one fact."),
    ("put", "put", "Put a value under a key, whatever was there."),
    ("swap", "swap", "Put a value under a key if the fact has a given version."),
    ("delete", "delete", "Delete a fact."),
    ("list", "list_facts", "List facts in the order of their keys."),
    ("watch", "watch", "Show what is there, then every later change."),
):
    facts.command(f"swell.cli.facts:{function}", name=name, help=text, help_epilogue="")
app.command(facts)
