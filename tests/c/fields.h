/* The fields of a tj_telemetry_record, by kind. */
#ifndef FIELDS_H
#define FIELDS_H

#include "check.h"

/* Of the extents 0 is "not measured", of the levels a measurement. */
#define EXTENTS(E)                                                                                                     \
  E(latency_seconds) E(ttft) E(energy_joules) E(power_watts) E(throughput_tok_per_sec) E(prefill_latency_seconds)      \
  E(decode_latency_seconds) E(cpu_energy_joules) E(gpu_energy_joules) E(dram_energy_joules) E(tokens_per_joule)        \
  E(energy_per_output_token_joules) E(throughput_per_watt) E(prefill_energy_joules) E(decode_energy_joules)            \
  E(mean_itl_ms) E(median_itl_ms) E(p90_itl_ms) E(p95_itl_ms) E(p99_itl_ms)
#define LEVELS(L)                                                                                                      \
  L(cost_usd) L(gpu_utilization_pct) L(gpu_memory_used_gb) L(gpu_temperature_c) L(std_itl_ms) L(queue_seconds)
#define FIGURES(F) EXTENTS(F) LEVELS(F)
#define COUNTS(C)                                                                                                      \
  C(prompt_tokens) C(prompt_tokens_evaluated) C(completion_tokens) C(total_tokens) C(cached_tokens)                    \
  C(reasoning_tokens) C(draft_tokens) C(draft_accepted_tokens)
#define TEXTS(T)                                                                                                       \
  T(model_id) T(engine) T(agent) T(energy_method) T(energy_vendor) T(batch_id) T(operation) T(finish_reason)           \
  T(error_type) T(request_id) T(session_id) T(trace_id) T(span_id)

typedef struct field {
  const char *name;
  size_t offset;
} field;

#define FIELD(name) {#name, offsetof(tj_telemetry_record, name)},
static const field figures[] = {FIGURES(FIELD)};
static const field counts[] = {COUNTS(FIELD)};
static const field texts[] = {TEXTS(FIELD)};

static inline double *figure_of(tj_telemetry_record *record, const field *it) {
  return (double *)(void *)((char *)record + it->offset);
}

static inline uint64_t *count_of(tj_telemetry_record *record, const field *it) {
  return (uint64_t *)(void *)((char *)record + it->offset);
}

static inline const char **text_of(tj_telemetry_record *record, const field *it) {
  return (const char **)(void *)((char *)record + it->offset);
}

#endif
