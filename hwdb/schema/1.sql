-- Version 1. Rates and sizes in base units (bytes, seconds, operations per second), one direction, one device.
CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE link (
  name TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL CHECK (kind IN ('scaleup', 'pcie', 'network')),
  bandwidth REAL NOT NULL CHECK (bandwidth >= 0),
  latency REAL NOT NULL CHECK (latency >= 0),
  reduces_in_network INTEGER NOT NULL CHECK (reduces_in_network IN (0, 1)),
  source TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
  name TEXT NOT NULL PRIMARY KEY,
  vendor TEXT NOT NULL, architecture TEXT NOT NULL, generation TEXT NOT NULL,
  sm_count REAL NOT NULL, boost_mhz REAL NOT NULL,
  fp32_peak REAL NOT NULL, tf32_peak REAL NOT NULL, fp16_peak REAL NOT NULL, fp8_peak REAL NOT NULL,
  int8_peak REAL NOT NULL, int4_peak REAL NOT NULL, fp4_peak REAL NOT NULL,
  memory REAL NOT NULL CHECK (memory >= 0), memory_reported REAL NOT NULL,
  memory_bandwidth REAL NOT NULL CHECK (memory_bandwidth > 0),
  last_level_cache REAL NOT NULL, scaleup_bandwidth REAL NOT NULL, scaleup_domain REAL NOT NULL,
  pcie_bandwidth REAL NOT NULL, tdp_watts REAL NOT NULL, system_kw REAL NOT NULL,
  usd_per_hour REAL,
  price_source TEXT NOT NULL, confidence TEXT NOT NULL, source TEXT NOT NULL, notes TEXT NOT NULL,
  scaleup_link TEXT NOT NULL, host_link TEXT NOT NULL, network_link TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE alias (
  alias TEXT NOT NULL PRIMARY KEY,
  device TEXT NOT NULL,
  source TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What many measured points share. The device may be one of the built-in database.
CREATE TABLE series (
  id INTEGER PRIMARY KEY,
  device TEXT NOT NULL, engine TEXT NOT NULL, kind TEXT NOT NULL, dtype TEXT NOT NULL, kv_dtype TEXT NOT NULL,
  kernel TEXT NOT NULL, distribution TEXT NOT NULL, date TEXT NOT NULL, source TEXT NOT NULL
) STRICT;
CREATE INDEX series_of_device ON series (device, kind);

CREATE TABLE gemm (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  n INTEGER NOT NULL, k INTEGER NOT NULL, batch INTEGER NOT NULL, m INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, n, k, batch, m)
) STRICT, WITHOUT ROWID;

CREATE TABLE prefill_attention (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, kv_heads INTEGER NOT NULL, head_dim INTEGER NOT NULL, cached INTEGER NOT NULL,
  sequences INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, kv_heads, head_dim, cached, sequences, new_tokens)
) STRICT, WITHOUT ROWID;

CREATE TABLE decode_attention (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, kv_heads INTEGER NOT NULL, head_dim INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  sequences INTEGER NOT NULL, length INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, kv_heads, head_dim, new_tokens, sequences, length)
) STRICT, WITHOUT ROWID;

CREATE TABLE mla_prefill (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, cached INTEGER NOT NULL, sequences INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, cached, sequences, new_tokens)
) STRICT, WITHOUT ROWID;

CREATE TABLE mla_decode (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, new_tokens INTEGER NOT NULL, sequences INTEGER NOT NULL, length INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, new_tokens, sequences, length)
) STRICT, WITHOUT ROWID;

CREATE TABLE moe (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  hidden INTEGER NOT NULL, inter INTEGER NOT NULL, top_k INTEGER NOT NULL, num_experts INTEGER NOT NULL,
  local_experts INTEGER NOT NULL, gated INTEGER NOT NULL, tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, hidden, inter, top_k, num_experts, local_experts, gated, tokens)
) STRICT, WITHOUT ROWID;

-- All five collectives: the series says which.
CREATE TABLE collective (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  ranks INTEGER NOT NULL, ranks_per_node INTEGER NOT NULL, message_bytes INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, ranks, ranks_per_node, message_bytes)
) STRICT, WITHOUT ROWID;

CREATE TABLE elementwise (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  bytes_per_row INTEGER NOT NULL, flops_per_row INTEGER NOT NULL, rows INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, bytes_per_row, flops_per_row, rows)
) STRICT, WITHOUT ROWID;
