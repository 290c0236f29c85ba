"""What SQL from outside must not do: statements, each with the code that it is refused with.

``{folder}`` is the log's own folder, with a file ``canary.csv`` in it; ``{exchange}`` is the one
folder that the log may write, with ``canary.parquet`` in it; ``{db}`` is the name of the database.
"""

from __future__ import annotations

from typing import Final

from workbench.errors import ErrorCode

CANARY: Final = "the-canary-sings"

WRITES: Final = r"""
INSERT INTO votes (vote_id) VALUES ('x')
INSERT OR REPLACE INTO schema_migrations VALUES (1, 'x', now())
INSERT INTO votes BY NAME SELECT 'x' AS vote_id
FROM (VALUES ('x')) INSERT INTO votes (vote_id)
UPDATE stream_sessions SET status = 'ok'
UPDATE schema_migrations SET version = 99 RETURNING *
DELETE FROM stream_sessions
DELETE FROM stream_sessions RETURNING *
TRUNCATE stream_sessions
MERGE INTO votes USING votes v ON votes.vote_id = v.vote_id WHEN MATCHED THEN DELETE
WITH x AS (INSERT INTO votes (vote_id) VALUES ('x') RETURNING vote_id) SELECT * FROM x
WITH x AS (DELETE FROM stream_sessions RETURNING *) SELECT count(*) FROM x
WITH x AS (UPDATE stream_sessions SET seq = 0 RETURNING seq) FROM x
WITH x AS (SELECT 1) INSERT INTO votes (vote_id) SELECT 'x' FROM x
WITH x AS (SELECT 1) DELETE FROM stream_sessions
WITH RECURSIVE x AS (DELETE FROM votes RETURNING 1) SELECT * FROM x
WITH x AS MATERIALIZED (DELETE FROM stream_sessions RETURNING seq) SELECT * FROM x
SELECT * FROM (DELETE FROM stream_sessions RETURNING *)
SELECT (DELETE FROM stream_sessions RETURNING seq)
EXPLAIN ANALYZE DELETE FROM stream_sessions
EXPLAIN ANALYZE INSERT INTO votes (vote_id) VALUES ('x')
EXPLAIN ANALYZE WITH x AS (DELETE FROM stream_sessions RETURNING *) SELECT * FROM x
EXPLAIN (ANALYZE) DELETE FROM stream_sessions
EXPLAIN DELETE FROM stream_sessions
EXPLAIN/**/ANALYZE/**/DELETE FROM stream_sessions
EXPLAIN ANALYZE CREATE TABLE stolen AS SELECT 1
CREATE TABLE stolen (a INT)
CREATE TABLE stolen AS SELECT * FROM stream_sessions
CREATE OR REPLACE TABLE stream_sessions AS SELECT 1 AS seq
CREATE TEMP TABLE stolen AS SELECT 1
CREATE VIEW stolen AS SELECT 1
CREATE OR REPLACE VIEW latencies AS SELECT 1
CREATE TEMP VIEW latencies AS SELECT 1
CREATE MACRO evil() AS 1
CREATE OR REPLACE MACRO guard.main.may_read(a, b) AS true
CREATE FUNCTION evil(a) AS TABLE SELECT a
CREATE SEQUENCE s
CREATE TYPE evil AS ENUM ('a')
CREATE SCHEMA evil
CREATE INDEX i ON votes (vote_id)
DROP TABLE stream_sessions
DROP TABLE IF EXISTS votes
DROP VIEW latencies
DROP SCHEMA main CASCADE
DROP MACRO guard.main.may_read
ALTER TABLE votes ADD COLUMN x INT
ALTER TABLE votes RENAME TO stolen
ALTER TABLE stream_sessions DROP COLUMN text_chars
COMMENT ON TABLE votes IS 'x'
VACUUM
VACUUM ANALYZE votes
ANALYZE
"""

FILES: Final = r"""
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM read_blob('/etc/passwd')
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM read_csv_auto('/etc/passwd')
SELECT * FROM read_csv('{folder}/canary.csv', header = false)
SELECT * FROM read_csv(['{folder}/canary.csv', '/etc/passwd'])
SELECT * FROM read_json('/etc/passwd')
SELECT * FROM read_json_auto('/etc/passwd')
SELECT * FROM read_json_objects('/etc/passwd')
SELECT * FROM read_ndjson('/etc/passwd')
SELECT * FROM read_ndjson_objects('/etc/passwd')
SELECT * FROM read_parquet('{exchange}/canary.parquet')
SELECT * FROM parquet_scan('{exchange}/canary.parquet')
SELECT * FROM parquet_metadata('{exchange}/canary.parquet')
SELECT * FROM parquet_schema('{exchange}/canary.parquet')
SELECT * FROM parquet_file_metadata('{exchange}/canary.parquet')
SELECT * FROM parquet_kv_metadata('{exchange}/canary.parquet')
SELECT * FROM parquet_full_metadata('{exchange}/canary.parquet')
SELECT * FROM parquet_bloom_probe('{exchange}/canary.parquet', 'a', 1)
SELECT * FROM read_duckdb('{folder}/{db}.duckdb')
SELECT * FROM sniff_csv('{folder}/canary.csv')
SELECT * FROM glob('/etc/*')
SELECT * FROM glob('{exchange}/*')
SELECT * FROM '/etc/passwd'
SELECT * FROM "/etc/passwd"
FROM '/etc/passwd'
FROM 'file:///etc/passwd'
TABLE '/etc/passwd'
SELECT * FROM '{folder}/canary.csv'
SELECT * FROM '{exchange}/canary.parquet'
SELECT * FROM "{exchange}/canary.parquet" t
SELECT * FROM '{exchange}/*.parquet'
SELECT * FROM 'canary.csv'
SELECT * FROM '../canary.csv'
SELECT * FROM 'https://example.org/x.csv'
SELECT * FROM read_csv('https://example.org/x.csv')
SELECT * FROM read_text('s3://bucket/x')
SELECT * FROM 'hf://datasets/x/y.parquet'
SELECT (SELECT content FROM read_text('/etc/passwd'))
SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))
SELECT 1 ORDER BY (SELECT content FROM read_text('/etc/passwd'))
SELECT 1 LIMIT (SELECT count(*) FROM read_text('/etc/passwd'))
SELECT 1 FROM votes JOIN read_text('/etc/passwd') t ON true
SELECT 1 UNION ALL SELECT content FROM read_text('/etc/passwd')
SELECT * FROM (FROM (FROM (FROM read_text('/etc/passwd'))))
WITH x AS (SELECT * FROM read_text('/etc/passwd')) FROM x
SELECT * FROM range(3) r, LATERAL (SELECT * FROM read_text('/etc/passwd'))
SELECT [x FOR x IN (SELECT list(content) FROM read_text('/etc/passwd'))]
SELECT list_transform([1], lambda x: (SELECT max(content) FROM read_text('/etc/passwd')))
SELECT count(*) FILTER (WHERE (SELECT true FROM read_text('/etc/passwd'))) FROM votes
SELECT sum(1) OVER (ORDER BY (SELECT content FROM read_text('/etc/passwd')))
SELECT * FROM system.main.read_text('/etc/passwd')
SELECT * FROM main.read_text('/etc/passwd')
SELECT * FROM READ_TEXT('/etc/passwd')
SELECT * FROM "read_text"('/etc/passwd')
SELECT * FROM read_text($$/etc/passwd$$)
SELECT * FROM read_text(E'\x2fetc/passwd')
SELECT * FROM read_text('/etc' || '/passwd')
SELECT * FROM/**/read_text/**/('/etc/passwd')
DESCRIBE SELECT * FROM read_text('/etc/passwd')
DESCRIBE '/etc/passwd'
DESCRIBE FROM '{folder}/canary.csv'
SUMMARIZE '/etc/passwd'
SUMMARIZE SELECT * FROM read_text('/etc/passwd')
EXPLAIN SELECT * FROM read_text('/etc/passwd')
EXPLAIN ANALYZE SELECT * FROM read_text('/etc/passwd')
EXPLAIN (FORMAT json) SELECT * FROM read_text('/etc/passwd')
PIVOT read_text('/etc/passwd') ON filename
SELECT * FROM (PIVOT read_text('/etc/passwd') ON filename IN ('a') USING count(*))
UNPIVOT read_text('/etc/passwd') ON content
COPY stream_sessions TO '{folder}/stolen.csv'
COPY stream_sessions TO '{exchange}/stolen.csv'
COPY (SELECT 1) TO '/tmp/stolen.parquet' (FORMAT parquet)
COPY votes FROM '/etc/passwd'
COPY (SELECT 1) TO '/dev/stdout'
COPY FROM DATABASE {db} TO guard
EXPORT DATABASE '{exchange}/stolen'
IMPORT DATABASE '{exchange}/stolen'
SELECT * FROM import_database('{exchange}/stolen')
"""

ESCAPES: Final = r"""
ATTACH ':memory:' AS x
ATTACH '{folder}/other.duckdb' AS x
ATTACH '{exchange}/other.duckdb' AS x
ATTACH IF NOT EXISTS '{folder}/{db}.duckdb' AS x (READ_ONLY)
ATTACH 'quack:localhost:1' AS x
DETACH {db}
DETACH guard
USE guard
USE system
INSTALL httpfs
INSTALL spatial FROM community
FORCE INSTALL quack
LOAD httpfs
LOAD '/tmp/evil.duckdb_extension'
UPDATE EXTENSIONS
SET memory_limit = '100GB'
SET GLOBAL enable_external_access = true
SET GLOBAL quack_authorization_function = 'quack_nop_authorization'
SET lock_configuration = false
SET VARIABLE x = 1
SET SESSION threads = 64
SET schema = 'guard'
SET search_path = 'guard'
RESET GLOBAL lock_configuration
RESET memory_limit
PRAGMA disable_optimizer
PRAGMA enable_profiling
PRAGMA database_list
PRAGMA show_tables
PRAGMA threads = 64
PRAGMA memory_limit = '100GB'
PRAGMA table_info('votes')
PRAGMA enable_logging
PRAGMA force_checkpoint
CHECKPOINT
FORCE CHECKPOINT
SELECT * FROM checkpoint()
SELECT * FROM force_checkpoint()
CALL force_checkpoint()
CALL pragma_table_info('votes')
CALL enable_logging()
SELECT * FROM enable_logging()
SELECT * FROM disable_logging()
SELECT * FROM truncate_duckdb_logs()
SELECT * FROM enable_profiling()
SELECT * FROM add_parquet_key('a', '0123456789112345')
SELECT * FROM copy_database('{db}', 'guard')
BEGIN
BEGIN TRANSACTION
COMMIT
ROLLBACK
ABORT
PREPARE p AS DELETE FROM stream_sessions
PREPARE p AS SELECT 1
EXECUTE p
DEALLOCATE p
CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')
DROP SECRET s
SELECT * FROM duckdb_secrets()
SELECT * FROM which_secret('s3://x', 's3')
SELECT * FROM duckdb_secret_types()
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_databases()
SELECT * FROM duckdb_databases
SELECT * FROM duckdb_extensions()
SELECT * FROM duckdb_logs
SELECT * FROM duckdb_logs()
SELECT * FROM duckdb_variables()
SELECT * FROM duckdb_prepared_statements()
SELECT * FROM duckdb_temporary_files()
SELECT * FROM duckdb_external_file_cache()
SELECT * FROM pg_catalog.pg_settings
SELECT * FROM pg_settings
SELECT * FROM pg_catalog.pg_database
SELECT * FROM pg_prepared_statements
SELECT * FROM sqlite_master
SELECT * FROM pragma_database_list
SELECT * FROM pragma_user_agent()
SELECT * FROM pragma_storage_info('votes')
SELECT * FROM information_schema.character_sets
SHOW DATABASES
SHOW VARIABLES
SELECT current_setting('home_directory')
SELECT current_setting('temp_directory')
SELECT main.current_setting('secret_directory')
SELECT system.main.current_setting('quack_authorization_function')
SELECT getvariable('x')
SELECT getenv('HOME')
SELECT write_log('x')
SELECT nextval('s')
SELECT setseed(0.5)
SELECT * FROM query('SELECT 1')
SELECT * FROM query('DELETE FROM stream_sessions')
SELECT * FROM query('FROM read_text(''/etc/passwd'')')
SELECT * FROM query_table('/etc/passwd')
SELECT * FROM query_table(['votes', '/etc/passwd'])
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''/etc/passwd'')'))
SELECT json_deserialize_sql(json_serialize_sql('SELECT 1'))
SELECT * FROM quack_query('quack:localhost:1', 'SELECT 1')
SELECT * FROM quack_query_by_name('x', 'SELECT 1')
SELECT * FROM quack_serve('quack:localhost:1', token := 'abcdefgh')
CALL quack_serve('quack:localhost:1', token := 'abcdefgh')
SELECT * FROM quack_stop('quack:localhost:1')
SELECT * FROM quack_server_list()
SELECT * FROM quack_active_connections()
SELECT * FROM quack_identify(name := 'evil')
SELECT * FROM quack_clear_cache()
SELECT quack_check_token('a', 'b', 'c')
SELECT * FROM whoami()
SELECT * FROM parked.main.r_00000000000000000000000000000000
SELECT * FROM guard.main.x
SELECT * FROM seq_scan('votes')
SELECT * FROM pandas_scan(1)
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM arrow_scan_dumb(1, 2, 3)
SELECT * FROM python_map_function(1)
SELECT * FROM secret_frame
SELECT * FROM secret_rows
SELECT (SELECT max(word) FROM secret_frame)
SELECT * FROM test_all_types()
SELECT * FROM test_vector_types(1)
SELECT * FROM votes AT (VERSION => 1)
SELECT 1; DELETE FROM stream_sessions
SELECT 1; SELECT 2
; DELETE FROM stream_sessions; SELECT 1
SELECT 1 -- \n; DELETE FROM stream_sessions
SELECT 1 /* */; DELETE FROM stream_sessions /* */
SELECT '\'; DELETE FROM stream_sessions; --'
SELECT $a$ $a$; DELETE FROM stream_sessions
SELECT 1) ; DELETE FROM stream_sessions; SELECT (1
SELECT 1) LIMIT 1; DELETE FROM stream_sessions; --
SELECT 1\0; DELETE FROM stream_sessions
\bomDELETE FROM stream_sessions
\nbspDELETE FROM stream_sessions
ＤＥＬＥＴＥ FROM stream_sessions
dElEtE/**/FrOm stream_sessions
SELECT ?
SELECT $missing
SELEKT 1
-- nothing
/* nothing */
;
;;
"""

LIMITS: Final[tuple[tuple[str, ErrorCode], ...]] = (
    ("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range = -b.range - 1.5"
     , ErrorCode.TIMEOUT),
    ("SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c "
     "WHERE a.range * b.range + c.range = 7", ErrorCode.TIMEOUT),
    ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
     , ErrorCode.TIMEOUT),
    ("SELECT sum(a.range) FROM range(100000000000) a", ErrorCode.TIMEOUT),
    ("SELECT max(md5(range::VARCHAR)) FROM range(100000000000)", ErrorCode.TIMEOUT),
    ("SELECT DISTINCT a.range * b.range FROM range(1000000) a, range(1000000) b"
     , ErrorCode.TIMEOUT),
    ("SELECT * FROM generate_series(1, 1000000000000) ORDER BY 1 DESC LIMIT 1", ErrorCode.TIMEOUT),
    ("EXPLAIN ANALYZE SELECT sum(a.range) FROM range(100000000000) a", ErrorCode.TIMEOUT),
    ("SELECT * FROM range(100000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT * FROM range(10001)", ErrorCode.INVALID_REQUEST),
    ("SELECT unnest(range(100000))", ErrorCode.INVALID_REQUEST),
    ("SELECT * FROM repeat_row(1, num_rows = 10001)", ErrorCode.INVALID_REQUEST),
    ("SELECT repeat('x', 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT length(repeat('x', range)) FROM range(1000000000, 1000000100)"
     , ErrorCode.INVALID_REQUEST),
    ("SELECT lpad('x', 1000000000, 'y')", ErrorCode.INVALID_REQUEST),
    ("SELECT rpad('x', 1000000000, 'y')", ErrorCode.INVALID_REQUEST),
    ("SELECT bar(1, 0, 1, 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT printf('%1000000000d', 1)", ErrorCode.INVALID_REQUEST),
    ("SELECT printf('%*d', 1000000000, 1)", ErrorCode.INVALID_REQUEST),
    ("SELECT format('{:>2000000000}', 'x')", ErrorCode.INVALID_REQUEST),
    ("SELECT format('{:>{}}', 'x', 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT format(status, 1) FROM stream_sessions", ErrorCode.INVALID_REQUEST),
    ("SELECT range(1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT generate_series(1, 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT range(range) FROM range(1000000000, 1000000001)", ErrorCode.INVALID_REQUEST),
    ("SELECT list_resize([1], 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT array_resize([1], 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT bitstring('1', 1000000000)", ErrorCode.INVALID_REQUEST),
    ("SELECT replace(s, 'x', s) FROM (SELECT string_agg('x', '') AS s FROM range(100000))"
     , ErrorCode.INVALID_REQUEST),
    ("SELECT replace(s, 'x', 'yyyyyyyyyyyy') FROM (SELECT 'xxx' AS s)", ErrorCode.INVALID_REQUEST),
    ("SELECT regexp_replace(s, 'x', s, 'g') FROM (SELECT 'xxx' AS s)", ErrorCode.INVALID_REQUEST),
    ("SELECT sleep_ms(100000)", ErrorCode.INVALID_REQUEST),
    ("SELECT pg_sleep(100)", ErrorCode.INVALID_REQUEST),
    (f"SELECT {'(' * 5000}1{')' * 5000}", ErrorCode.INVALID_REQUEST),
    (f"SELECT {'[' * 300}1{']' * 300}", ErrorCode.INVALID_REQUEST),
    (f"SELECT {'- ' * 20000}1", ErrorCode.INVALID_REQUEST),
    (f"SELECT {'NOT ' * 20000}true", ErrorCode.INVALID_REQUEST),
    (f"SELECT {'1 + ' * 5000}1", ErrorCode.INVALID_REQUEST),
    (f"SELECT '{'x' * 200_000}'", ErrorCode.INVALID_REQUEST),
    (f"SELECT 1 {'UNION ALL SELECT 1 ' * 6000}", ErrorCode.INVALID_REQUEST),
)  # fmt: skip
"""What takes too long or too much, for limits of 0.3 seconds, 10,000 rows and 256 MiB."""

STATEMENTS: Final[tuple[str, ...]] = tuple(
    line.replace(r"\n", "\n")
    .replace(r"\0", "\0")
    .replace(r"\bom", "\ufeff")
    .replace(r"\nbsp", "\xa0")
    for block in (WRITES, FILES, ESCAPES)
    for line in block.strip("\n").split("\n")
)
"""What must not run at all: all are INVALID_REQUEST."""
