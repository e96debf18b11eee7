/* Recording calls and asking about them, for the tests of what comes out. */
#ifndef CALLS_H
#define CALLS_H

#include "check.h"

static inline void add(tj_store *store, const tj_telemetry_record *record) {
  CHECK_OK(tj_record(store, record, &error));
}

static inline tj_telemetry_record call_of(const char *model, const char *engine, double timestamp) {
  tj_telemetry_record record = TJ_TELEMETRY_RECORD_INIT;
  record.model_id = model;
  record.engine = engine;
  record.timestamp = timestamp;
  return record;
}

static inline tj_aggregated_stats ask(tj_store *store, const tj_query *query) {
  tj_aggregated_stats stats = TJ_AGGREGATED_STATS_INIT;
  CHECK_OK(tj_aggregate(store, query, &stats, &error));
  return stats;
}

static inline uint64_t calls(tj_store *store, const tj_query *query) {
  tj_aggregated_stats stats = ask(store, query);
  tj_aggregated_stats_free(&stats);
  return stats.total_calls;
}

#endif
