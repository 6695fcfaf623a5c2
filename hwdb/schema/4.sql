-- Version 4: linear attention, sparse attention with its indexer, attention modules, exchanges of experts' rows.
CREATE TABLE recurrence (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, k_heads INTEGER NOT NULL, k_dim INTEGER NOT NULL, v_dim INTEGER NOT NULL,
  sequences INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, k_heads, k_dim, v_dim, sequences, new_tokens)
) STRICT, WITHOUT ROWID;

CREATE TABLE convolution (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  channels INTEGER NOT NULL, taps INTEGER NOT NULL, sequences INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, channels, taps, sequences, new_tokens)
) STRICT, WITHOUT ROWID;

CREATE TABLE sparse_attention (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, top_k INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  sequences INTEGER NOT NULL, length INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, top_k, new_tokens, sequences, length)
) STRICT, WITHOUT ROWID;

CREATE TABLE indexer (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, head_dim INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  sequences INTEGER NOT NULL, length INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, head_dim, new_tokens, sequences, length)
) STRICT, WITHOUT ROWID;

CREATE TABLE mla_module_prefill (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, cached INTEGER NOT NULL, sequences INTEGER NOT NULL, new_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, cached, sequences, new_tokens)
) STRICT, WITHOUT ROWID;

CREATE TABLE mla_module_decode (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  heads INTEGER NOT NULL, new_tokens INTEGER NOT NULL, sequences INTEGER NOT NULL, length INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, heads, new_tokens, sequences, length)
) STRICT, WITHOUT ROWID;

CREATE TABLE expert_exchange (
  series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
  ranks INTEGER NOT NULL, ranks_per_node INTEGER NOT NULL, hidden INTEGER NOT NULL, top_k INTEGER NOT NULL,
  num_experts INTEGER NOT NULL, tokens INTEGER NOT NULL,
  seconds REAL NOT NULL CHECK (seconds > 0), spread REAL NOT NULL,
  PRIMARY KEY (series, ranks, ranks_per_node, hidden, top_k, num_experts, tokens)
) STRICT, WITHOUT ROWID;
