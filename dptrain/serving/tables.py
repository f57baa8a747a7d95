"""The tables of a service: keys, counts of queries, records of what was asked, alarms."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, String, Table

# Of PostgreSQL's; the integers of SQLite are as long, and those alone count up by themselves.
_LONG = BigInteger().with_variant(Integer(), "sqlite")

METADATA = MetaData()
KEYS = Table(
    "keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),  # HMAC-SHA-256 of the whole key under the server's secret
    Column("tenant", String(80), nullable=False),
    Column("scopes", String(80), nullable=False),  # separated by spaces
    Column("made", Float, nullable=False),  # all times in seconds since the epoch
    Column("expires", Float),
    Column("revoked", Float),
    Column("locked", String(200)),  # why, where it is
)
SPENT = Table(
    "spent",
    METADATA,
    Column("scope", String(8), primary_key=True),  # key, tenant or model
    Column("name", String(80), primary_key=True),
    Column("model", String(64), primary_key=True),
    Column("queries", _LONG, nullable=False),
)
QUERIES = Table(
    "queries",
    METADATA,
    Column("id", _LONG, primary_key=True),
    Column("at", Float, nullable=False),
    Column("key", String(16), nullable=False),
    Column("tenant", String(80), nullable=False),
    Column("model", String(64), nullable=False),
    Column("outcome", String(20), nullable=False),  # answered, coarse, or why it was refused
    Column("answer", Integer),  # the class that was named; none of other tasks and of what was refused
    Column("sketch", LargeBinary),  # a random projection of the input, float32
    Column("marks", LargeBinary),  # fingerprints of its parts, uint64
    Column("distance", Float),  # off the manifold of normal inputs
    Column("raw", LargeBinary),  # the input itself, float32, only where that is switched on
    Index("queries_by_time", "at"),
    Index("queries_by_tenant", "tenant", "id"),
)
ALARMS = Table(
    "alarms",
    METADATA,
    Column("id", _LONG, primary_key=True),
    Column("at", Float, nullable=False),
    Column("scope", String(8), nullable=False),
    Column("name", String(80), nullable=False),
    Column("model", String(64), nullable=False),
    Column("queries", _LONG, nullable=False),  # of the session, when it was noticed
    Column("score", Float, nullable=False),  # probability that a normal session looks so odd
    Column("reason", String(300), nullable=False),
    Column("acknowledged", Float),
)
