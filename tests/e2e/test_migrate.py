# SPDX-License-Identifier: Apache-2.0
"""`sluice migrate`: a whole store from one database into another, and back."""
import random
import shutil
import sqlite3

import pytest

from command import run
from postgres import Postgres, find_programs

pytestmark = pytest.mark.skipif(not find_programs(), reason="PostgreSQL is not installed")
NASTY = ["", "'; DROP TABLE orgs; --", "äöü€😀", "\u202eabc", "a\nb\tc\\", "NULL", "%s", "x" * 200]
LONG = "long " * 20_000


@pytest.fixture(scope="module")
def postgres():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def empty_file(postgres, tmp_path_factory):
    """An SQLite store with nothing in it but what every new one has."""
    folder = tmp_path_factory.mktemp("empty")
    migrate(postgres.new_database("fresh"), f"sqlite:{folder}/sluice.db", folder)
    return folder / "sluice.db"


@pytest.fixture
def filled_file(empty_file, tmp_path):
    """A store with rows in every table: more than a batch, NULLs, numbers at both ends, odd texts and bytes."""
    path = tmp_path / "sluice.db"
    shutil.copy(empty_file, path)
    with sqlite3.connect(path) as database:
        for name in tables(database):
            fill(database, name)
    database.close()
    return path


def tables(database):
    rows = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
                            "AND name <> 'schema_migrations' ORDER BY rowid")
    return [name for name, in rows]


def value_of(kind, name, i, is_nullable, chance):
    if name in ("org_id", "project_id") and i % 2:
        return "default"
    if is_nullable and chance.random() < 0.5:
        return None
    if kind == "BLOB":
        return chance.randbytes(32) + i.to_bytes(4, "big")
    if name in ("detail", "input", "output", "head") and kind == "TEXT":
        return chance.choice(NASTY + [LONG])
    if kind == "TEXT":
        return f"{i}-{name}-{NASTY[chance.randrange(len(NASTY))]}"
    return chance.choice([0, 1, -1, 2 ** 63 - 1, -2 ** 63, i]) if "id" not in name else 10 + 7 * i


def fill(database, table, rows=150):
    """150 rows, in an order that is not the key's. Foreign keys refer to rows that are there."""
    columns = database.execute(f"PRAGMA table_info({table})").fetchall()
    references = {key[3]: (key[2], key[4]) for key in database.execute(f"PRAGMA foreign_key_list({table})")}
    chance = random.Random(table)
    for i in chance.sample(range(rows), rows):
        values = []
        for _, name, kind, is_required, _, key in columns:
            if name in references:
                parent, column = references[name]
                values.append(database.execute(f"SELECT {column} FROM {parent} ORDER BY random() LIMIT 1").fetchone()[0])
            else:
                values.append(value_of(kind.replace("INTEGER", "BIGINT"), name, i, not is_required and not key, chance))
        marks = ", ".join("?" * len(values))
        database.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)


def content(path):
    database = sqlite3.connect(path)
    try:
        return {name: sorted(map(repr, database.execute(f"SELECT * FROM {name}"))) for name in tables(database)}
    finally:
        database.close()


def migrate(source, target, folder, expected=0):
    done = run("migrate", "--from", source, "--to", target, directory=folder)
    assert done.returncode == expected, done.stderr + done.stdout
    return done


def test_a_store_comes_back_as_it_was(postgres, filled_file, tmp_path):
    url = postgres.new_database("whole")
    done = migrate(f"sqlite:{filled_file}", url, tmp_path)
    for name, rows in content(filled_file).items():
        assert postgres.sql(f"SELECT count(*) FROM {name}", "whole") == [str(len(rows))]
        assert len(rows) > 64 and f"{len(rows)} rows" in done.stdout
    migrate(url, "sqlite:back.db", tmp_path)
    assert content(tmp_path / "back.db") == content(filled_file)


def test_numbers_go_on_behind_the_highest(postgres, filled_file, tmp_path):
    migrate(f"sqlite:{filled_file}", postgres.new_database("numbers"), tmp_path)
    highest = int(postgres.sql("SELECT max(id) FROM ledger_rows", "numbers")[0])
    assert postgres.sql("SELECT nextval(pg_get_serial_sequence('ledger_rows', 'id'))", "numbers") == [str(highest + 1024)]


def test_a_target_in_use_is_refused(postgres, filled_file, empty_file, tmp_path):
    url = postgres.new_database("used")
    migrate(f"sqlite:{empty_file}", url, tmp_path)          # twice is fine as long as nothing is in it
    migrate(f"sqlite:{filled_file}", url, tmp_path)
    done = migrate(f"sqlite:{filled_file}", url, tmp_path, expected=78)
    assert "--to is in use: its table orgs holds" in done.stderr
    rows = len(content(filled_file)["ledger_rows"])
    assert postgres.sql("SELECT count(*) FROM ledger_rows", "used") == [str(rows)]


def test_a_failure_leaves_the_target_empty(postgres, filled_file, empty_file, tmp_path):
    url = postgres.new_database("failing")
    migrate(f"sqlite:{empty_file}", url, tmp_path)
    postgres.sql("ALTER TABLE budget_leases ADD CONSTRAINT small CHECK (amount < 5)", "failing")
    done = migrate(f"sqlite:{filled_file}", url, tmp_path, expected=1)
    assert "small" in done.stderr
    assert postgres.sql("SELECT count(*) FROM orgs", "failing") == ["1"]
    postgres.sql("ALTER TABLE budget_leases DROP CONSTRAINT small", "failing")
    migrate(f"sqlite:{filled_file}", url, tmp_path)


def test_a_copy_that_differs_is_noticed(postgres, filled_file, empty_file, tmp_path):
    url = postgres.new_database("changing")
    migrate(f"sqlite:{empty_file}", url, tmp_path)
    postgres.sql("CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS "
                 "'BEGIN NEW.name := upper(NEW.name); RETURN NEW; END'", "changing")
    postgres.sql("CREATE TRIGGER spoil BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION spoil()", "changing")
    done = migrate(f"sqlite:{filled_file}", url, tmp_path, expected=1)
    assert "the copy of table users differs" in done.stderr
    assert postgres.sql("SELECT count(*) FROM orgs", "changing") == ["1"]


def test_what_cannot_be_is_said(postgres, filled_file, tmp_path):
    here = f"sqlite:{filled_file}"
    assert "there is no" in migrate("sqlite:no.db", postgres.url, tmp_path, expected=78).stderr
    assert not (tmp_path / "no.db").exists()
    assert "the same database" in migrate(here, here, tmp_path, expected=78).stderr
    assert "store must be" in migrate(here, "mysql://x/y", tmp_path, expected=78).stderr
    secret = f"postgresql://nobody:hush@127.0.0.1:{postgres.port}/postgres"
    done = migrate(here, secret, tmp_path, expected=1)
    assert 'role "nobody" does not exist' in done.stderr and "hush" not in done.stderr
    assert run("migrate", "--from", here, directory=tmp_path).returncode == 2
