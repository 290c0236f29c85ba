"""The tables, as numbered steps.

A step is never edited once released: a change to a table is a new step at the end. Views hold no
data and are not steps; see :mod:`workbench.store.views`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: its number, what it is about and its SQL.

    ``of_rows``: it changes what rows say, and no table is another one afterwards.
    """

    version: int
    name: str
    sql: str
    of_rows: bool = False


_FIRST: Final = """
CREATE TABLE environments (
    environment_id  VARCHAR PRIMARY KEY,      -- hash of the content below
    created_at      TIMESTAMPTZ NOT NULL,
    cpu             VARCHAR,
    cores           INTEGER,
    ram_bytes       BIGINT,
    gpu             VARCHAR,
    os              VARCHAR,
    python          VARCHAR,
    packages        JSON,                     -- name -> version
    git_revision    VARCHAR,
    content         JSON                      -- everything, the columns above included
);

CREATE TABLE conversations (
    conversation_id VARCHAR PRIMARY KEY,
    created_at      TIMESTAMPTZ NOT NULL,
    source          VARCHAR,                  -- as in stream_sessions
    title           VARCHAR
);

CREATE TABLE messages (
    message_id      VARCHAR NOT NULL,
    conversation_id VARCHAR NOT NULL,
    session_id      VARCHAR,                  -- the session that wrote it; null: was given
    position        INTEGER NOT NULL,         -- within the conversation, from 0
    role            VARCHAR NOT NULL,         -- system, user, assistant, tool
    content         VARCHAR NOT NULL,
    reasoning       VARCHAR,                  -- thinking, apart from the answer
    created_at      TIMESTAMPTZ NOT NULL
);

CREATE TABLE stream_sessions (
    seq                     BIGINT NOT NULL,  -- 1, 2, 3, ... in order of commit, without gaps
    session_id              VARCHAR PRIMARY KEY,
    conversation_id         VARCHAR NOT NULL,
    correlation_id          VARCHAR NOT NULL,
    comparison_id           VARCHAR,          -- the same for all panes of one question
    environment_id          VARCHAR,          -- its row in environments
    run_id                  VARCHAR,          -- of a benchmark; so are cell_id and trial
    cell_id                 VARCHAR,
    trial                   INTEGER,
    created_at              TIMESTAMPTZ NOT NULL, -- when it arrived, by the clock
    source                  VARCHAR NOT NULL, -- who asked: ui, cli, python, api, openai, bench, ...
    requested_model         VARCHAR NOT NULL, -- as the caller wrote it: a bare name, or no host
    model                   VARCHAR NOT NULL, -- id of the model that answered, or failed
    provider                VARCHAR NOT NULL,
    fallback_from           VARCHAR,          -- model that failed first and was replaced
    digest                  VARCHAR,          -- of the weights; sample-sha256: of places in them
    dtype                   VARCHAR,          -- of the weights in memory
    quantization            VARCHAR,
    device                  VARCHAR,          -- where the model computed
    threads                 INTEGER,          -- compute threads of most passes
    cold                    BOOLEAN NOT NULL, -- it waited for its model to load
    options                 JSON NOT NULL,    -- sampling options as used
    seed                    BIGINT NOT NULL,  -- drawn if none was given
    timing_mode             VARCHAR NOT NULL, -- concurrent, isolated, interleaved
    status                  VARCHAR NOT NULL, -- ok, cancelled, error, timeout, rejected, ...
    finish_reason           VARCHAR,          -- stop, length, tool_calls, content_filter
    termination_reason      VARCHAR,          -- why it ended early; null if ok
    error_code              VARCHAR,          -- see the error codes
    error_message           VARCHAR,
    warnings                JSON NOT NULL,    -- with code and message
    queued_ns               BIGINT NOT NULL,  -- stamps: monotonic, comparable within one boot
    intended_ns             BIGINT,
    slot_ns                 BIGINT,
    sent_ns                 BIGINT,
    first_any_ns            BIGINT,
    first_content_ns        BIGINT,
    last_ns                 BIGINT,
    end_ns                  BIGINT NOT NULL,
    load_ns                 BIGINT NOT NULL,  -- durations
    overlap_ns              BIGINT NOT NULL,  -- beside other generations or loads
    runtime_total_ns        BIGINT,           -- by the runtime's own clock
    runtime_load_ns         BIGINT,
    runtime_prompt_eval_ns  BIGINT,
    runtime_eval_ns         BIGINT,
    prompt_tokens           INTEGER,
    output_tokens           INTEGER,
    streamed_tokens         INTEGER NOT NULL, -- as they arrived here
    count_source            VARCHAR,          -- runtime, or stream: counted as they arrived
    text_chars              INTEGER NOT NULL, -- of the answer
    reasoning_chars         INTEGER NOT NULL, -- of the thinking
    mem_before_bytes        BIGINT,           -- last reading before the request
    mem_peak_bytes          BIGINT,
    gpu_peak_bytes          BIGINT,           -- largest GPU memory during the request
    metrics                 JSON NOT NULL,    -- the figures as the user saw them
    details                 JSON NOT NULL
);

CREATE TABLE token_streams (
    session_id      VARCHAR PRIMARY KEY,
    t_ns            BIGINT[] NOT NULL,        -- when each text arrived
    n_tokens        INTEGER[] NOT NULL,       -- tokens in it
    n_chars         INTEGER[] NOT NULL,       -- characters in it
    channels        VARCHAR[] NOT NULL        -- content or reasoning
);

CREATE TABLE memory_samples (
    session_id      VARCHAR,
    created_at      TIMESTAMPTZ NOT NULL,
    t_ns            BIGINT NOT NULL,
    scope           VARCHAR NOT NULL,         -- worker, ollama, server, host, scripted
    model           VARCHAR,
    pid             INTEGER,
    pss_bytes       BIGINT,
    rss_bytes       BIGINT,
    gpu_bytes       BIGINT,
    host_available_bytes BIGINT
);

CREATE TABLE model_events (
    event_id        VARCHAR NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    t_ns            BIGINT NOT NULL,
    model           VARCHAR,
    provider        VARCHAR NOT NULL,
    event           VARCHAR NOT NULL,         -- load, unload, evict, died, refuse, download, ...
    ok              BOOLEAN NOT NULL,
    reason          VARCHAR,                  -- in words
    before_bytes    BIGINT,                   -- the model's, before
    after_bytes     BIGINT,                   -- the model's, after
    duration_s      DOUBLE,
    details         JSON NOT NULL
);

CREATE TABLE errors (
    error_id        VARCHAR NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    code            VARCHAR NOT NULL,
    message         VARCHAR NOT NULL,
    fix             VARCHAR,
    operation       VARCHAR,
    provider        VARCHAR,
    model           VARCHAR,
    session_id      VARCHAR,
    correlation_id  VARCHAR,
    details         JSON NOT NULL
);

CREATE TABLE benchmark_runs (
    run_id          VARCHAR PRIMARY KEY,
    created_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ,
    name            VARCHAR NOT NULL,
    status          VARCHAR NOT NULL,
    timing_mode     VARCHAR NOT NULL,
    seed            BIGINT,
    spec            JSON NOT NULL,            -- as it was run
    environment_id  VARCHAR,                  -- its row in environments
    details         JSON
);

CREATE TABLE benchmark_cells (
    cell_id         VARCHAR PRIMARY KEY,
    run_id          VARCHAR NOT NULL,
    position        INTEGER NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ,
    model           VARCHAR NOT NULL,
    options         JSON NOT NULL,
    load            JSON,                     -- the load pattern
    status          VARCHAR NOT NULL,
    warmups         INTEGER,                  -- before the first trial; they do not count
    trials          INTEGER,                  -- planned; null: only the run can tell
    results         JSON,                     -- its figures
    details         JSON
);

CREATE TABLE scores (
    score_id        VARCHAR NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    session_id      VARCHAR,
    run_id          VARCHAR,
    cell_id         VARCHAR,
    scorer          VARCHAR NOT NULL,
    task            VARCHAR,
    item            VARCHAR,
    family          VARCHAR,                  -- questions that share a source are one cluster
    score           DOUBLE,
    passed          BOOLEAN,
    details         JSON
);

CREATE TABLE votes (
    vote_id         VARCHAR NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    comparison_id   VARCHAR,
    model_a         VARCHAR NOT NULL,
    model_b         VARCHAR NOT NULL,
    session_a       VARCHAR,                  -- the answer of model_a
    session_b       VARCHAR,
    winner          VARCHAR NOT NULL,         -- a, b, tie, both_bad
    blind           BOOLEAN,                  -- cast without knowing the models
    voter           VARCHAR,
    details         JSON
);
"""

_RECOVERY: Final = """
ALTER TABLE model_events ADD COLUMN expected_bytes BIGINT;    -- held privately before an unload
ALTER TABLE model_events ADD COLUMN recovered_bytes BIGINT;   -- of these, given back
ALTER TABLE model_events ADD COLUMN recovered_share DOUBLE;
ALTER TABLE model_events ADD COLUMN leak BOOLEAN;
ALTER TABLE model_events ADD COLUMN host_before_bytes BIGINT; -- available on the host
ALTER TABLE model_events ADD COLUMN host_after_bytes BIGINT;
ALTER TABLE stream_sessions ADD COLUMN retry_ns BIGINT;       -- lost in failed attempts
"""

_AUDIT: Final = """
ALTER TABLE model_events ADD COLUMN correlation_id VARCHAR;   -- of the request that caused it
ALTER TABLE model_events ADD COLUMN source VARCHAR;           -- api, ui, cli, notebook
ALTER TABLE model_events ADD COLUMN client VARCHAR;           -- the address it came from
"""

_POSITION: Final = """
-- The number of the last entry of the spool that is in the tables.
CREATE TABLE log_position (n BIGINT NOT NULL);
INSERT INTO log_position VALUES (0);
"""

_PRUNES: Final = """
-- Deletions by age: they explain the numbers that stream_sessions has no more.
CREATE TABLE prunes (
    created_at      TIMESTAMPTZ NOT NULL,
    before          TIMESTAMPTZ NOT NULL,     -- sessions from before it went
    sessions        BIGINT NOT NULL
);
"""

_TRIALS: Final = """
-- Which question of a benchmark a session answered. A row here is what makes a session count:
-- warm-ups and what a resumed run does again have none.
CREATE TABLE benchmark_trials (
    cell_id         VARCHAR NOT NULL,
    trial           INTEGER NOT NULL,         -- the number within the cell, as in stream_sessions
    run_id          VARCHAR NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL,
    session_id      VARCHAR,                  -- null: refused before it was a session
    task            VARCHAR,                  -- the dataset
    item            VARCHAR NOT NULL,
    family          VARCHAR NOT NULL,         -- the item's cluster, else the item
    repeat          INTEGER NOT NULL,
    turn            INTEGER NOT NULL,         -- of a conversation, from 0
    prefix          VARCHAR NOT NULL,         -- unique, shared, none: what a prompt cache can know
    cancelled_on_purpose BOOLEAN NOT NULL,
    status          VARCHAR NOT NULL,
    met             BOOLEAN,                  -- every SLO; null: none asked
    details         JSON NOT NULL,
    PRIMARY KEY (cell_id, trial)
);
"""

_ROLLUP: Final = """
-- Counts of a large log, see workbench/store/rollup.py. They can be made again from the sessions.
CREATE TABLE rollup_position (seq BIGINT NOT NULL); -- of the last session that is counted
INSERT INTO rollup_position VALUES (0);
CREATE TABLE rollup_groups (
    model                VARCHAR NOT NULL,
    provider             VARCHAR NOT NULL,
    dtype                VARCHAR,
    quantization         VARCHAR,
    device               VARCHAR,
    timing_mode          VARCHAR NOT NULL,
    prompt_tokens_from   BIGINT,              -- class of the prompt's length
    alone                BOOLEAN NOT NULL,    -- ended well, no fallback, nothing ran beside
    sessions             BIGINT NOT NULL,
    sessions_ok          BIGINT NOT NULL,
    sessions_as_fallback BIGINT NOT NULL,
    mem_peak_bytes       BIGINT,
    last_used_at         TIMESTAMPTZ NOT NULL
);
CREATE TABLE rollup_buckets (
    model                VARCHAR NOT NULL,
    provider             VARCHAR NOT NULL,
    dtype                VARCHAR,
    quantization         VARCHAR,
    device               VARCHAR,
    timing_mode          VARCHAR NOT NULL,
    prompt_tokens_from   BIGINT,
    figure               VARCHAR NOT NULL,    -- a column of latencies
    bucket               INTEGER NOT NULL,    -- floor(139 * log2(value)), 0.5 % wide
    sessions             BIGINT NOT NULL
);
"""

_INSIGHTS: Final = """
CREATE TABLE insights (
    insight_id           VARCHAR PRIMARY KEY,
    created_at           TIMESTAMPTZ NOT NULL,
    kind                 VARCHAR NOT NULL,    -- parity, divergence, ladder
    model_a              VARCHAR NOT NULL,
    model_b              VARCHAR NOT NULL,
    correlation_id       VARCHAR,
    prompt               VARCHAR,             -- the last message
    verdict              VARCHAR,             -- of a divergence; the first cause of a parity sheet
    agreement            DOUBLE,              -- share of equal likeliest tokens
    mean_divergence_nats DOUBLE,              -- at least this much
    details              JSON
);
"""

_DELETIONS: Final = """
-- Sessions that were deleted one by one: they explain the numbers that stream_sessions has no more,
-- and what a spool still has of them is not missed.
CREATE TABLE deletions (
    created_at      TIMESTAMPTZ NOT NULL,
    seq             BIGINT NOT NULL,
    session_id      VARCHAR NOT NULL
);
"""

_WRITERS: Final = """
-- Whose session it is, in a log that several workbenches share; null: measured by this one.
ALTER TABLE stream_sessions ADD COLUMN writer_id VARCHAR; -- who measured it; null: this workbench
"""

_LATENESS: Final = """
-- By how much the event loop that stamps the tokens was late there; null: another process does.
ALTER TABLE stream_sessions ADD COLUMN ttft_late_ns BIGINT;  -- at the sending or the first token
ALTER TABLE stream_sessions ADD COLUMN speed_late_ns BIGINT; -- at the first or the last token
"""

# Names of Ollama were logged without the tag that it takes them to have.
_UNTAGGED: Final = r"'^ollama(@[^/]*)?/([^?]*/[^/:?]*|[^/:?]+)$', 's'"

_NAMING: Final = (
    ("stream_sessions", "model"),
    ("stream_sessions", "fallback_from"),
    ("memory_samples", "model"),
    ("model_events", "model"),
    ("errors", "model"),
    ("benchmark_cells", "model"),
    ("votes", "model_a"),
    ("votes", "model_b"),
    ("insights", "model_a"),
    ("insights", "model_b"),
    ("rollup_groups", "model"),
    ("rollup_buckets", "model"),
)

# What was asked for stays as it was typed: requested_model, and the spec of a run.
TODAY: Final[Mapping[tuple[str, str], str]] = {
    (table, column): f"CASE WHEN regexp_matches({column}, {_UNTAGGED}) "
    f"THEN {column} || ':latest' ELSE {column} END"
    for table, column in _NAMING
}
"""SQL by table and column: what an older workbench wrote there, as it is written now."""

# An update of millions of rows is held in memory and does not fit; a new column does.
_TAGGED: Final = ";\n".join(
    f"ALTER TABLE {table} ALTER COLUMN {column} TYPE VARCHAR USING {value}"
    for (table, column), value in TODAY.items()
)

_TAGS: Final = f"""
{_TAGGED};
-- Counts of the two names are those of one model.
CREATE OR REPLACE TEMP TABLE merged AS
    SELECT model, provider, dtype, quantization, device, timing_mode, prompt_tokens_from, alone,
        sum(sessions)::BIGINT AS sessions,
        sum(sessions_ok)::BIGINT AS sessions_ok,
        sum(sessions_as_fallback)::BIGINT AS sessions_as_fallback,
        max(mem_peak_bytes) AS mem_peak_bytes,
        max(last_used_at) AS last_used_at
    FROM rollup_groups GROUP BY ALL;
DELETE FROM rollup_groups;
INSERT INTO rollup_groups BY NAME FROM merged;
CREATE OR REPLACE TEMP TABLE merged AS
    SELECT model, provider, dtype, quantization, device, timing_mode, prompt_tokens_from, figure,
        bucket, sum(sessions)::BIGINT AS sessions
    FROM rollup_buckets GROUP BY ALL;
DELETE FROM rollup_buckets;
INSERT INTO rollup_buckets BY NAME FROM merged;
DROP TABLE merged;
"""  # noqa: S608

MIGRATIONS: Final[tuple[Migration, ...]] = (
    Migration(1, "the first tables", _FIRST),
    Migration(2, "unload receipts and retries", _RECOVERY),
    Migration(3, "who loaded, unloaded, downloaded and deleted", _AUDIT),
    Migration(4, "the position in the spool", _POSITION),
    Migration(5, "deletions by age", _PRUNES),
    Migration(6, "trials of benchmarks", _TRIALS),
    Migration(7, "counts of a large log", _ROLLUP),
    Migration(8, "parity sheets and divergences", _INSIGHTS),
    Migration(9, "sessions deleted one by one", _DELETIONS),
    Migration(10, "who measured a session", _WRITERS),
    Migration(11, "names of Ollama with their tag", _TAGS, of_rows=True),
    Migration(12, "how late the event loop was", _LATENESS),
)

LATEST: Final = MIGRATIONS[-1].version
"""The version that this code writes."""
