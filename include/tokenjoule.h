/*
 * TokenJoule: what each inference call cost, in tokens, milliseconds, joules and dollars.
 *
 * In ten minutes: tj_store_open a database, tj_store_subscribe it to the bus, wrap your engine's generate function in a
 * tj_engine and call tj_instrumented_generate; ask with tj_aggregate. Or fill a tj_telemetry_record yourself and tj_record
 * it. examples/quickstart.c does it in 80 lines.
 *
 * CONVENTIONS
 *
 * Names       Functions are tj_<noun>_<verb>, types tj_<noun>, enumerators and macros TJ_.... The library exports nothing
 *             else.
 * Status      Every fallible function returns tj_status; TJ_OK is 0. On failure no out-parameter is written, and nothing was
 *             lost or changed. Functions that cannot fail return void or a value.
 * Errors      The last parameter of a fallible function is a tj_error, allocated by the caller, which may be NULL and never
 *             needs freeing. There is no thread-local and no global error. The message names the argument or field.
 * Structs in  begin with struct_size, set by TJ_<TYPE>_INIT, or by tj_<type>_init for languages without macros. Zero in
 *             every other field means the documented default. A program built against an older, shorter struct keeps
 *             working; a longer one from a newer header is accepted if what this library does not know in it is zero.
 * Structs out are the caller's, with struct_size first; the library writes at most that many bytes. Arrays that the library
 *             owns hang off them and are released by tj_<type>_free, which takes NULL and can be called twice. Element
 *             structs end in reserved[], so their stride never changes within an ABI version.
 * Strings     in are NUL-terminated UTF-8, copied before the call returns; NULL means "". Strings out are borrowed, for as
 *             long as it says where they are described. Invalid UTF-8 is TJ_ERR_INVALID_ARGUMENT.
 * Units       Times are seconds: timestamps Unix time by the wall clock, durations by the monotonic clock; names that end in
 *             _ms are milliseconds. Ranges are half-open, since <= t < until. Joules, watts, US dollars, GB of 2^30 bytes,
 *             degrees Celsius, percentages 0 to 100.
 * Unknown     is not zero: NAN in a double and TJ_UNKNOWN in a token count mean "not measured". Where 0 cannot be
 *             (latency, TTFT, inter-token latency, energy, power, throughput) it means that, too. Averages and
 *             distributions are taken over the calls that measured the value.
 * Threads     Every function may be called from any thread at any time on the same handle, but for _close and _free, which
 *             are the last use, and a tj_call, which one thread at a time may use. Callbacks run on the thread that
 *             publishes or asks.
 * Panics      never cross this boundary: they become TJ_ERR_PANIC, and the handle stays usable.
 * Fork        A handle used in a forked child returns TJ_ERR_FORKED and touches nothing of the parent's; closing it there only
 *             frees memory.
 * Signals     No handler is installed, no process-wide state is changed, nothing is printed.
 */
/* Made by cbindgen from src/ffi; `make header` writes it. SPDX-License-Identifier: MIT OR Apache-2.0 */

#ifndef TOKENJOULE_H
#define TOKENJOULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * The version of this header; tj_version is the library's.
 */
#define TJ_VERSION "0.1.0"

/* What a TJ_<TYPE>_INIT stands for: a struct that is zero but for its size. */
#ifdef __cplusplus
template <class Struct>
inline Struct tj_sized_() noexcept {
  Struct value = Struct();
  value.struct_size = sizeof(Struct);
  return value;
}
#define TJ_SIZED_(type) (::tj_sized_< ::type>())
#else
#define TJ_SIZED_(type) { .struct_size = sizeof(type) }
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status, errors, version ------------------------------------------------------------------------------
 * Every fallible function returns a `tj_status` and takes a `tj_error *` last. The enumerators below are all the
 * codes there are today; new ones are only ever appended, so treat a code that you do not know as a failure.
 */

/**
 * Counts breaking changes of this header. A program checks `tj_abi_version() == TJ_ABI_VERSION` when it loads the
 * library by hand; the dynamic linker does the same through the soname (libtokenjoule.so.1).
 */
#define TJ_ABI_VERSION 1

/** The values of a `tj_status`. */
typedef enum tj_status_code {
  /** Done. */
  TJ_OK = 0,
  /**
   * An argument, or a field of a struct, is not what it may be (NULL, bad UTF-8, NaN where not allowed, negative,
   * unknown enumerator, bad JSON ...). The message names it. Nothing was lost or changed.
   */
  TJ_ERR_INVALID_ARGUMENT = 1,
  /** The operating system refused: path, permission, read error. */
  TJ_ERR_IO = 2,
  /** Another process holds the database past the busy timeout; or what is to be started runs already. */
  TJ_ERR_BUSY = 3,
  /** Disk full, or journal full under TJ_OVERFLOW_REJECT. */
  TJ_ERR_FULL = 4,
  /** The database or a journal fails its checks; nothing was deleted. */
  TJ_ERR_CORRUPT = 5,
  /** The file was written by a newer version of the library, or is no telemetry database. It was not altered. */
  TJ_ERR_SCHEMA = 6,
  /** The store was opened with read_only. */
  TJ_ERR_READ_ONLY = 7,
  /** The store, queue or call has ended already. */
  TJ_ERR_CLOSED = 8,
  /** The handle belongs to the process that this one was forked from. */
  TJ_ERR_FORKED = 9,
  /** The engine callback returned non-zero; its code is in tj_error.engine_code. */
  TJ_ERR_ENGINE = 10,
  /** Not available on this system or in this build. */
  TJ_ERR_UNSUPPORTED = 11,
  /** There is nothing of that number or name. */
  TJ_ERR_NOT_FOUND = 12,
  /** A panic inside the library was caught. The handle stays usable unless it says otherwise. */
  TJ_ERR_PANIC = 13,
  /** Nothing happened within the given time. */
  TJ_ERR_TIMEOUT = 14,
} tj_status_code;

/** What a fallible function returns: TJ_OK or one of the TJ_ERR_... codes. */
typedef int32_t tj_status;

/**
 * Where a failing function says what was wrong. Owned by the caller, for example on the stack; needs no
 * initialisation and is never freed. Written only on failure, and whole.
 */
typedef struct tj_error {
  /** The code that the function returned. */
  tj_status status;
  /** TJ_ERR_ENGINE: what the engine callback returned. Otherwise 0. */
  int32_t engine_code;
  /** NUL-terminated UTF-8, cut at a character boundary. Names the argument or field and what was wrong with it. */
  char message[504];
} tj_error;

/** The name of a code: "TJ_ERR_BUSY", or "TJ_ERR_?" for one that this library does not know. Static; any thread. */
const char *tj_status_name(tj_status status);

/** The library's version, "0.1.0". Static; any thread. TJ_VERSION is the header's. */
const char *tj_version(void);

/** The library's ABI version. Equal to the TJ_ABI_VERSION of every header that may be used with it. Any thread. */
uint32_t tj_abi_version(void);


/* ---- One call's record ------------------------------------------------------------------------------------
 * What an engine knows about one inference call. Set what was measured and leave the rest: unknown is not zero.
 * NAN in a double and TJ_UNKNOWN in a token count mean "not measured". Where 0 is physically impossible for a finished
 * measurement (every latency, TTFT and inter-token latency, every energy, power and throughput, and the efficiencies
 * made from them) a 0 means "not measured" too, so that a zeroed record is honest. In the other fields 0 is a
 * measurement: a free call, an idle GPU, an empty queue, no tokens. Set NAN or TJ_UNKNOWN there if nobody looked.
 */

/** A token count that nobody measured. */
#define TJ_UNKNOWN UINT64_MAX

/** How a call ended. Every begun call ends in exactly one of these. */
typedef enum tj_outcome {
  /** The engine finished. */
  TJ_OUTCOME_OK = 0,
  /** The engine failed. */
  TJ_OUTCOME_ERROR = 1,
  /** The engine stopped because it was asked to. */
  TJ_OUTCOME_CANCELLED = 2,
  /** The call's handle was freed without an end. */
  TJ_OUTCOME_ABANDONED = 3,
  /** The process died in the middle of the call. */
  TJ_OUTCOME_INTERRUPTED = 4,
} tj_outcome;

/**
 * One inference call. All strings are copied before tj_record returns; at most 64 KiB each (metadata_json: 1 MiB).
 * Numbers are never negative or infinite. Counts are below 2^63.
 */
typedef struct tj_telemetry_record {
  /** Set by TJ_TELEMETRY_RECORD_INIT. */
  size_t struct_size;
  /** When the call began, Unix seconds. 0: now. */
  double timestamp;
  /** The model. Required, not empty. */
  const char *model_id;
  /** The engine that ran it. */
  const char *engine;
  /** Who asked. */
  const char *agent;
  /** Tokens of the whole prompt, the cached part included. */
  uint64_t prompt_tokens;
  /** Prompt tokens that were really processed. */
  uint64_t prompt_tokens_evaluated;
  /** Output tokens. */
  uint64_t completion_tokens;
  /** 0 or TJ_UNKNOWN: prompt_tokens + completion_tokens, as far as they are known. */
  uint64_t total_tokens;
  /** Seconds from the start of the call to its end. */
  double latency_seconds;
  /** Time to first token: seconds from the start of the call to the first output token, queue and prefill included. */
  double ttft;
  /** US dollars. */
  double cost_usd;
  /** Joules that all devices drew for this call. */
  double energy_joules;
  /** Mean power, watts. */
  double power_watts;
  /** 0 to 100. */
  double gpu_utilization_pct;
  /** GB of 2^30 bytes. */
  double gpu_memory_used_gb;
  /** Degrees Celsius. */
  double gpu_temperature_c;
  /** Output tokens / latency, tokens per second. */
  double throughput_tok_per_sec;
  /** Seconds spent on the prompt. */
  double prefill_latency_seconds;
  /** Seconds spent on the output after its first token. */
  double decode_latency_seconds;
  /** How the energy was measured: "hw_counter", "polling", "rapl" ... */
  const char *energy_method;
  /** Whose counter it was: "nvidia", "amd", "cpu_rapl" ... */
  const char *energy_vendor;
  /** The batch that the call belongs to. */
  const char *batch_id;
  /** 1: a warm-up call, which a query can leave out. Any other value but 0 counts as 1. */
  uint32_t is_warmup;
  /** 1: the output was streamed. Any other value but 0 counts as 1. */
  uint32_t is_streaming;
  /** Joules, the CPU's part of energy_joules. */
  double cpu_energy_joules;
  /** Joules, the GPUs' part. */
  double gpu_energy_joules;
  /** Joules, the memory's part. */
  double dram_energy_joules;
  /** Output tokens / energy. */
  double tokens_per_joule;
  /** Energy / output tokens. */
  double energy_per_output_token_joules;
  /** Throughput / mean power. */
  double throughput_per_watt;
  /** Joules up to the first token. */
  double prefill_energy_joules;
  /** Joules after the first token. */
  double decode_energy_joules;
  /** Inter-token latency in milliseconds, over the call's tokens: mean. */
  double mean_itl_ms;
  /** Median. */
  double median_itl_ms;
  /** 90th percentile. */
  double p90_itl_ms;
  /** 95th percentile. */
  double p95_itl_ms;
  /** 99th percentile. */
  double p99_itl_ms;
  /** Sample standard deviation. 0 is a measurement where mean_itl_ms is one. */
  double std_itl_ms;
  /** The version of the method by which tokens were counted. 0: none. */
  uint32_t token_counting_version;
  /** A tj_outcome. */
  uint32_t outcome;
  /** A JSON object. NULL or "": {}. */
  const char *metadata_json;
  /** What was asked for: "chat", "text_completion", "embeddings" ... (OpenTelemetry: gen_ai.operation.name). */
  const char *operation;
  /** Why the output ended: "stop", "length" ... */
  const char *finish_reason;
  /** The class of the error, for a call that failed. */
  const char *error_type;
  /** The request. */
  const char *request_id;
  /** The conversation. */
  const char *session_id;
  /** The trace ... */
  const char *trace_id;
  /** ... and the span in it. */
  const char *span_id;
  /** Prompt tokens that came from a KV or prefix cache. */
  uint64_t cached_tokens;
  /** Output tokens that were reasoning. */
  uint64_t reasoning_tokens;
  /** Tokens that speculative decoding proposed ... */
  uint64_t draft_tokens;
  /** ... and those of them that were accepted. */
  uint64_t draft_accepted_tokens;
  /** Seconds that the call waited before the engine began. */
  double queue_seconds;
} tj_telemetry_record;

#define TJ_TELEMETRY_RECORD_INIT TJ_SIZED_(tj_telemetry_record)

/** Does what TJ_TELEMETRY_RECORD_INIT does, for languages without macros. NULL is ignored. */
void tj_telemetry_record_init(struct tj_telemetry_record *record);


/* ---- Recording --------------------------------------------------------------------------------------------
 * A store is one SQLite database. Open it once, record into it from any thread, close it at the end.
 */

/** The values of tj_store_options.durability. */
typedef enum tj_durability {
  /** A tj_record that returned survives SIGKILL and the OOM killer. */
  TJ_DURABILITY_PROCESS = 0,
  /** A tj_record that returned survives a power cut: its commit is on the disk. */
  TJ_DURABILITY_POWER = 1,
} tj_durability;

/** The values of tj_store_options.overflow. */
typedef enum tj_overflow {
  /**
   * A full journal makes tj_record commit what is in it first. While the database cannot be written to, tj_record then
   * returns why (TJ_ERR_BUSY after the busy timeout, TJ_ERR_FULL, TJ_ERR_IO).
   */
  TJ_OVERFLOW_WAIT = 0,
  /** A full journal makes tj_record return TJ_ERR_FULL; the refused record is counted. */
  TJ_OVERFLOW_REJECT = 1,
} tj_overflow;

/** A database of calls. Any thread, any time, until it is closed; a handle that was closed answers TJ_ERR_CLOSED. */
typedef struct tj_store tj_store;

/** How to open a store. Zero in a field is its default. */
typedef struct tj_store_options {
  /** Set by TJ_STORE_OPTIONS_INIT. */
  size_t struct_size;
  /** 1: open an existing database for queries only; nothing on disk changes. */
  uint32_t read_only;
  /** A tj_durability. */
  uint32_t durability;
  /** A tj_overflow. */
  uint32_t overflow;
  /** Milliseconds to wait for another process that holds the database. 0: 5000. */
  uint32_t busy_timeout_ms;
  /**
   * Milliseconds that a record may wait in the journal before other processes can see it. 0: 100. This process's own
   * questions see it at once.
   */
  uint32_t commit_interval_ms;
  /**
   * Bytes of the journal, 64 KiB to 1 GiB, rounded up to a power of two. 0: 8 MiB. A record that is larger than the whole
   * journal is refused.
   */
  uint64_t journal_bytes;
  /** Records that are older than this many seconds are deleted, little by little. 0: never. Not in memory. */
  double max_age_seconds;
  /**
   * While the database uses more bytes than this, the oldest records are deleted, little by little. 0: never. The room
   * is used again; the file does not shrink. Not in memory.
   */
  uint64_t max_bytes;
  /**
   * 1: what tj_aggregate says of records that are deleted by age, by size or by tj_store_prune stays, percentiles
   * included. Whole hours are deleted, then, and where records are gone a query's ends count whole hours: those that
   * begin in its range. tj_store_clear deletes these summaries, too.
   */
  uint32_t keep_rollups;
  /** Set it to 0. */
  uint32_t reserved;
} tj_store_options;

#define TJ_STORE_OPTIONS_INIT TJ_SIZED_(tj_store_options)

/** Does what TJ_STORE_OPTIONS_INIT does, for languages without macros. NULL is ignored. */
void tj_store_options_init(struct tj_store_options *options);

/**
 * Opens the database at `path`, making it and missing folders (files 0600, folders 0700), or, with ":memory:", a
 * private one in memory. `options` NULL: all defaults. A database of the Python reference is taken over in place and
 * stays usable by it. Beside the database lies the store's journal, which its close deletes; what processes that died
 * left in theirs is taken over first (tj_health says how much).
 *
 * TJ_OK: *out_store is a store; close it with tj_store_close.
 * TJ_ERR_INVALID_ARGUMENT; TJ_ERR_IO: cannot be opened or made, or a symbolic link that another user owns;
 * TJ_ERR_BUSY; TJ_ERR_FULL: no room for the database or its journal; TJ_ERR_CORRUPT: not a database, or a damaged one;
 * TJ_ERR_SCHEMA: written by a newer version, or its table `telemetry` is another program's; TJ_ERR_FORKED: in a forked
 * child, if a thread was inside a store at the moment of the fork (fork first, or exec). In all these cases *out_store is
 * not written, and what was in the file is as it was.
 */
tj_status tj_store_open(const char *path,
                        const struct tj_store_options *options,
                        struct tj_store **out_store,
                        tj_error *error);

/**
 * Commits what was recorded and closes the store; its subscription to the bus ends. A call that is still in flight
 * keeps the database open until it has ended, and is recorded. NULL is fine. The last use of the handle: no other
 * thread may be using it.
 *
 * TJ_OK; TJ_ERR_CLOSED: it was closed before; TJ_ERR_FORKED: nothing but memory was freed; TJ_ERR_IO, TJ_ERR_FULL,
 * TJ_ERR_BUSY: the last commit failed. It is closed in every case.
 */
tj_status tj_store_close(struct tj_store *store,
                         tj_error *error);

/**
 * Returns when everything recorded so far is committed.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_IO, TJ_ERR_FULL, TJ_ERR_BUSY.
 */
tj_status tj_store_flush(struct tj_store *store, tj_error *error);

/**
 * Records one call. When it returns TJ_OK the record survives the death of the process (see tj_durability): it is in the
 * journal, and in the database within commit_interval_ms, or as soon as this process asks it anything.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED;
 * TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO. On failure nothing was recorded, and tj_store_health counts it. One exception: under
 * TJ_DURABILITY_POWER the last three can mean that the record is in the journal and not on the disk yet. It will be, by
 * itself, and counts as recorded (tj_health.waiting): do not record it again.
 */
tj_status tj_record(struct tj_store *store,
                    const tj_telemetry_record *record,
                    tj_error *error);

/**
 * Counts the records in the database, whoever wrote them. Sees the caller's own at once.
 *
 * TJ_OK: *out_count is the number; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY;
 * TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT.
 */
tj_status tj_store_count(struct tj_store *store, uint64_t *out_count, tj_error *error);

/**
 * From now on every TJ_EVENT_TELEMETRY_RECORD on the bus, and every call begun, is recorded in this store, until
 * tj_store_unsubscribe or tj_store_close. Subscribing twice is the same as once. A store that cannot record never breaks
 * the caller's generation: tj_store_health counts the failure.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED.
 */
tj_status tj_store_subscribe(struct tj_store *store,
                             tj_error *error);

/**
 * Ends tj_store_subscribe. Calls begun before still go to this store when they end. A store that is not subscribed is
 * fine.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CLOSED; TJ_ERR_FORKED.
 */
tj_status tj_store_unsubscribe(struct tj_store *store,
                               tj_error *error);


/* ---- Choosing records -------------------------------------------------------------------------------------
 * Every question takes a query: which records it is about.
 */

/** Which records. Zero and NULL in a field leave it open. */
typedef struct tj_query {
  /** Set by TJ_QUERY_INIT. */
  size_t struct_size;
  /** Unix seconds: since <= timestamp ... */
  double since;
  /** ... < until. 0: unbounded. An empty range selects nothing. */
  double until;
  /** NULL: any; otherwise exactly this one ("" is one too). */
  const char *model_id;
  /** NULL: any; otherwise exactly this one. */
  const char *engine;
  /** NULL: any; otherwise exactly this one. */
  const char *agent;
  /** NULL: any; otherwise exactly this one. */
  const char *batch_id;
  /** 1: leave warm-up calls out. */
  uint32_t exclude_warmup;
  /** 0: any; n: only records stamped n. */
  uint32_t token_counting_version;
  /** 0: all; otherwise the bits (1 << TJ_OUTCOME_...) of those wanted. UINT32_MAX is all, too. */
  uint32_t outcome_mask;
  /**
   * 0: all; otherwise only the first n models and the first n engines (the totals are over all), batches or
   * records.
   */
  uint32_t limit;
  /** Objectives, for goodput; they select nothing. The most seconds to the first token; 0: any ... */
  double max_ttft;
  /** ... the most seconds per output token after the first; 0: any ... */
  double max_tpot;
  /** ... and the most seconds from start to end; 0: any. With an objective a query reads every record in its range. */
  double max_latency;
} tj_query;

#define TJ_QUERY_INIT TJ_SIZED_(tj_query)

/** Does what TJ_QUERY_INIT does, for languages without macros. NULL is ignored. */
void tj_query_init(struct tj_query *query);


/* ---- Aggregating ------------------------------------------------------------------------------------------
 * Per model, per engine and in all, between two times. Averages and distributions are taken over the calls that
 * measured the value, never over the others; sums likewise.
 */

/**
 * How a value is distributed, over the calls that measured it. All NAN where count is 0. min, max and mean are
 * exact; a percentile is within 1 % of the exact one (linear interpolation between closest ranks).
 */
typedef struct tj_distribution {
  /** How many values. */
  uint64_t count;
  /** The smallest. */
  double min;
  /** The largest. */
  double max;
  /** The mean. */
  double mean;
  /** The median. */
  double p50;
  /** 90th percentile. */
  double p90;
  /** 95th percentile. */
  double p95;
  /** 99th percentile. */
  double p99;
} tj_distribution;

/** Statistics of one model. An average over nothing is 0.0, as in the reference; its distribution says NAN. */
typedef struct tj_model_stats {
  /** The model. Owned by the tj_aggregated_stats. */
  const char *model_id;
  /** Calls. */
  uint64_t call_count;
  /** Sum of total_tokens. */
  uint64_t total_tokens;
  /** Sum of prompt_tokens. */
  uint64_t prompt_tokens;
  /** Sum of prompt_tokens_evaluated. */
  uint64_t prompt_tokens_evaluated;
  /** Sum of completion_tokens. */
  uint64_t completion_tokens;
  /** Sum of cached_tokens. */
  uint64_t cached_tokens;
  /** Calls that ended as TJ_OUTCOME_ERROR. */
  uint64_t error_count;
  /** Calls that ended as TJ_OUTCOME_CANCELLED. */
  uint64_t cancelled_count;
  /** Calls that ended as TJ_OUTCOME_INTERRUPTED. */
  uint64_t interrupted_count;
  /** Sum of latency_seconds, seconds. */
  double total_latency;
  /** Mean of latency_seconds, seconds. */
  double avg_latency;
  /** Sum of cost_usd, US dollars. */
  double total_cost;
  /** Mean of ttft, seconds. */
  double avg_ttft;
  /** Sum of energy_joules, joules. */
  double total_energy_joules;
  /** Mean of gpu_utilization_pct, 0 to 100. */
  double avg_gpu_utilization_pct;
  /** Mean of throughput_tok_per_sec, tokens per second. */
  double avg_throughput_tok_per_sec;
  /** Mean of tokens_per_joule. */
  double avg_tokens_per_joule;
  /** Mean of energy_per_output_token_joules, joules. */
  double avg_energy_per_output_token_joules;
  /** Mean of throughput_per_watt. */
  double avg_throughput_per_watt;
  /** Sum of prefill_energy_joules, joules. */
  double total_prefill_energy_joules;
  /** Sum of decode_energy_joules, joules. */
  double total_decode_energy_joules;
  /** Mean over calls of mean_itl_ms, milliseconds. */
  double avg_mean_itl_ms;
  /** Mean over calls of median_itl_ms, milliseconds. */
  double avg_median_itl_ms;
  /** Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95. */
  double avg_p95_itl_ms;
  /** Distribution of latency_seconds over calls, seconds. */
  struct tj_distribution latency;
  /** Distribution of ttft over calls, seconds. */
  struct tj_distribution ttft;
  /** Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented. */
  struct tj_distribution itl_ms;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[16];
} tj_model_stats;

/** Statistics of one engine: tj_model_stats with another name in front. */
typedef struct tj_engine_stats {
  /** The engine. Owned by the tj_aggregated_stats. */
  const char *engine;
  /** Calls. */
  uint64_t call_count;
  /** Sum of total_tokens. */
  uint64_t total_tokens;
  /** Sum of prompt_tokens. */
  uint64_t prompt_tokens;
  /** Sum of prompt_tokens_evaluated. */
  uint64_t prompt_tokens_evaluated;
  /** Sum of completion_tokens. */
  uint64_t completion_tokens;
  /** Sum of cached_tokens. */
  uint64_t cached_tokens;
  /** Calls that ended as TJ_OUTCOME_ERROR. */
  uint64_t error_count;
  /** Calls that ended as TJ_OUTCOME_CANCELLED. */
  uint64_t cancelled_count;
  /** Calls that ended as TJ_OUTCOME_INTERRUPTED. */
  uint64_t interrupted_count;
  /** Sum of latency_seconds, seconds. */
  double total_latency;
  /** Mean of latency_seconds, seconds. */
  double avg_latency;
  /** Sum of cost_usd, US dollars. */
  double total_cost;
  /** Mean of ttft, seconds. */
  double avg_ttft;
  /** Sum of energy_joules, joules. */
  double total_energy_joules;
  /** Mean of gpu_utilization_pct, 0 to 100. */
  double avg_gpu_utilization_pct;
  /** Mean of throughput_tok_per_sec, tokens per second. */
  double avg_throughput_tok_per_sec;
  /** Mean of tokens_per_joule. */
  double avg_tokens_per_joule;
  /** Mean of energy_per_output_token_joules, joules. */
  double avg_energy_per_output_token_joules;
  /** Mean of throughput_per_watt. */
  double avg_throughput_per_watt;
  /** Sum of prefill_energy_joules, joules. */
  double total_prefill_energy_joules;
  /** Sum of decode_energy_joules, joules. */
  double total_decode_energy_joules;
  /** Mean over calls of mean_itl_ms, milliseconds. */
  double avg_mean_itl_ms;
  /** Mean over calls of median_itl_ms, milliseconds. */
  double avg_median_itl_ms;
  /** Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95. */
  double avg_p95_itl_ms;
  /** Distribution of latency_seconds over calls, seconds. */
  struct tj_distribution latency;
  /** Distribution of ttft over calls, seconds. */
  struct tj_distribution ttft;
  /** Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented. */
  struct tj_distribution itl_ms;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[16];
} tj_engine_stats;

/**
 * Statistics of all calls that a query selects. Initialise with TJ_AGGREGATED_STATS_INIT; release with
 * tj_aggregated_stats_free.
 */
typedef struct tj_aggregated_stats {
  /** Set by TJ_AGGREGATED_STATS_INIT. */
  size_t struct_size;
  /** Calls. */
  uint64_t total_calls;
  /** Sum of total_tokens. */
  uint64_t total_tokens;
  /** Calls that ended as TJ_OUTCOME_ERROR. */
  uint64_t error_count;
  /** Calls that ended as TJ_OUTCOME_CANCELLED. */
  uint64_t cancelled_count;
  /** Calls that ended as TJ_OUTCOME_INTERRUPTED. */
  uint64_t interrupted_count;
  /** Sum of cost_usd, US dollars. */
  double total_cost;
  /** Sum of latency_seconds, seconds. */
  double total_latency;
  /** Sum of energy_joules, joules. */
  double total_energy_joules;
  /** Mean of throughput_tok_per_sec, tokens per second. */
  double avg_throughput_tok_per_sec;
  /** Mean of gpu_utilization_pct, 0 to 100. */
  double avg_gpu_utilization_pct;
  /** Mean of energy_per_output_token_joules, joules. */
  double avg_energy_per_output_token_joules;
  /** Mean of throughput_per_watt. */
  double avg_throughput_per_watt;
  /** Sum of prefill_energy_joules, joules. */
  double total_prefill_energy_joules;
  /** Sum of decode_energy_joules, joules. */
  double total_decode_energy_joules;
  /** Mean over calls of mean_itl_ms, milliseconds. */
  double avg_mean_itl_ms;
  /** Mean over calls of median_itl_ms, milliseconds. */
  double avg_median_itl_ms;
  /** Mean over calls of p95_itl_ms, milliseconds. The percentile over tokens is itl_ms.p95. */
  double avg_p95_itl_ms;
  /** Distribution of latency_seconds over calls, seconds. */
  struct tj_distribution latency;
  /** Distribution of ttft over calls, seconds. */
  struct tj_distribution ttft;
  /** Distribution of inter-token latency over tokens, milliseconds, of the calls that were instrumented. */
  struct tj_distribution itl_ms;
  /** The models, by call_count descending, then by name ascending. NULL if there are none. */
  const struct tj_model_stats *per_model;
  /** How many models. */
  size_t per_model_count;
  /** The engines, in the same order. NULL if there are none. */
  const struct tj_engine_stats *per_engine;
  /** How many engines. */
  size_t per_engine_count;
  /** The library's; hands back what the lists live in. */
  void *owner;
  /**
   * Calls that ended as TJ_OUTCOME_OK and met every objective of the query. One that was not measured is not met;
   * the time per output token is met by a call with fewer than two. 0 for a query without objectives.
   */
  uint64_t goodput_calls;
  /** Their share of all calls, 0 to 1. NAN without objectives or calls. */
  double goodput;
  /**
   * How many there were per second from the query's since to its until, of which one that is unbounded stands for
   * the first or last call's timestamp. NAN without objectives, or if that is no time at all.
   */
  double goodput_per_second;
} tj_aggregated_stats;

#define TJ_AGGREGATED_STATS_INIT TJ_SIZED_(tj_aggregated_stats)

/** Does what TJ_AGGREGATED_STATS_INIT does, for languages without macros. NULL is ignored. */
void tj_aggregated_stats_init(struct tj_aggregated_stats *stats);

/**
 * Answers a query; NULL asks for everything. Sees every record that this process recorded before, and other
 * processes' as far as they are committed.
 *
 * TJ_OK: *out_stats is filled, as far as its struct_size reaches; release it with tj_aggregated_stats_free, also
 * before it is filled again. TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_CLOSED; TJ_ERR_FORKED;
 * TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT: *out_stats is not written.
 */
tj_status tj_aggregate(tj_store *store,
                       const tj_query *query,
                       struct tj_aggregated_stats *out_stats,
                       tj_error *error);

/**
 * Releases what a filled tj_aggregated_stats owns; its names and lists are gone, its totals stay. NULL, an
 * initialised one that was never filled, and one that was released before are fine.
 */
void tj_aggregated_stats_free(struct tj_aggregated_stats *stats);


/* ---- Aggregating over time --------------------------------------------------------------------------------
 * The answer of tj_aggregate for each step of a range, one behind the other: what a chart shows. Asking once for
 * 1,000 steps is much cheaper than asking 1,000 times.
 */

/** One step of a series. */
typedef struct tj_series_step {
  /** Unix seconds: since <= timestamp ... */
  double since;
  /** ... < until. */
  double until;
  /** What tj_aggregate answers about it. The series': it goes with tj_series_free, and is not to be freed itself. */
  const tj_aggregated_stats *stats;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[4];
} tj_series_step;

/** The steps of a range. Initialise with TJ_SERIES_INIT; release with tj_series_free. */
typedef struct tj_series {
  /** Set by TJ_SERIES_INIT. */
  size_t struct_size;
  /** The steps, the earliest first, without gaps: steps without calls are among them. NULL if there are none. */
  const struct tj_series_step *steps;
  /** How many steps. */
  size_t step_count;
  /** The library's; hands back what the steps live in. */
  void *owner;
} tj_series;

#define TJ_SERIES_INIT TJ_SIZED_(tj_series)

/** Does what TJ_SERIES_INIT does, for languages without macros. NULL is ignored. */
void tj_series_init(struct tj_series *series);

/**
 * Answers a query (NULL: everything) for each step of `step_seconds` in its range. The first step begins at the
 * query's since; if that is unbounded, at the last multiple of step_seconds that is not after the first record. The
 * last step is cut short by the query's until; if that is unbounded, it is the one with the last record in it. The
 * first and the last record are those of the database, whatever else the query asks for. Its limit is each step's.
 *
 * TJ_OK: *out_series is filled; release it with tj_series_free, also before it is filled again. A store without
 * records, asked without both bounds, and an empty range have no steps. TJ_ERR_INVALID_ARGUMENT: the message names
 * the field; `step_seconds` is not positive and finite, or the range has more than 10,000 steps of it; or a
 * struct_size without room for the owner. TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL;
 * TJ_ERR_CORRUPT. On failure *out_series is not written.
 */
tj_status tj_aggregate_series(tj_store *store,
                              const tj_query *query,
                              double step_seconds,
                              struct tj_series *out_series,
                              tj_error *error);

/**
 * Releases what a filled tj_series owns, the statistics of its steps included. NULL, an initialised one that was
 * never filled, and one that was released before are fine.
 */
void tj_series_free(struct tj_series *series);


/* ---- Batches ----------------------------------------------------------------------------------------------
 * What the calls of each batch came to: the reference's per_batch_stats.
 */

/** The calls of one batch_id. */
typedef struct tj_batch {
  /** The batch; never "". Owned by the tj_batches. */
  const char *batch_id;
  /** Calls. */
  uint64_t total_requests;
  /** Sum of prompt_tokens and completion_tokens. */
  uint64_t total_tokens;
  /** Sum of completion_tokens. */
  uint64_t completion_tokens;
  /** Calls that ended otherwise than as TJ_OUTCOME_OK. */
  uint64_t failed_requests;
  /** Sum of energy_joules, joules. */
  double total_energy_joules;
  /**
   * Energy / prompt and output tokens, joules, over the calls that measured energy. 0.0 over nothing, as in the
   * reference.
   */
  double energy_per_token_joules;
  /** Energy / calls, joules, over the calls that measured energy. 0.0 over nothing. */
  double energy_per_request_joules;
  /** The earliest call's timestamp, Unix seconds. */
  double oldest_timestamp;
  /** The latest call's. */
  double newest_timestamp;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[8];
} tj_batch;

/** Batches. Initialise with TJ_BATCHES_INIT; release with tj_batches_free. */
typedef struct tj_batches {
  /** Set by TJ_BATCHES_INIT. */
  size_t struct_size;
  /** The batches, by total_requests descending, then by name ascending. NULL if there are none. */
  const struct tj_batch *batches;
  /** How many. */
  size_t batch_count;
  /** The library's; hands back what the list lives in. */
  void *owner;
} tj_batches;

#define TJ_BATCHES_INIT TJ_SIZED_(tj_batches)

/** Does what TJ_BATCHES_INIT does, for languages without macros. NULL is ignored. */
void tj_batches_init(struct tj_batches *batches);

/**
 * Counts the calls that a query selects (NULL: all) by batch. Calls without a batch_id are in none. The query's
 * limit, if it is not 0: only the first so many batches. It reads every record that has a batch_id.
 *
 * TJ_OK: *out_batches is filled; release it with tj_batches_free, also before it is filled again.
 * TJ_ERR_INVALID_ARGUMENT: the message names the field, or a struct_size without room for the owner; TJ_ERR_CLOSED;
 * TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL; TJ_ERR_CORRUPT. On failure *out_batches is not written.
 */
tj_status tj_batch_stats(tj_store *store,
                         const tj_query *query,
                         struct tj_batches *out_batches,
                         tj_error *error);

/**
 * Releases what a filled tj_batches owns. NULL, an initialised one that was never filled, and one that was released
 * before are fine.
 */
void tj_batches_free(struct tj_batches *batches);


/* ---- Reading records --------------------------------------------------------------------------------------
 * One by one, as they were recorded, unknowns as NAN and TJ_UNKNOWN. A callback gets them, on the calling thread,
 * with no lock held: it may use the store. Records made after the reading began are not part of it; of records that
 * are deleted meanwhile some hundred may still be.
 */

/**
 * Gets a record and its id, the column `id` of the table `telemetry`. Returns 0 to go on; anything else is the end.
 * The record and its strings are valid until it returns. It must not unwind (no C++ exception, no longjmp) into the
 * library.
 */
typedef int32_t (*tj_record_fn)(const tj_telemetry_record *record, int64_t record_id, void *user_data);

/**
 * Calls `fn` for each record that a query selects (NULL: all), the oldest timestamp first, equal ones by id. The
 * query's limit, if it is not 0: for so many at most. Objectives select nothing.
 *
 * TJ_OK: there are no more, the limit is reached, or `fn` wanted no more. TJ_ERR_INVALID_ARGUMENT: the message names
 * the field, or `fn` is NULL: it was not called. TJ_ERR_CLOSED: the store is closed, or `fn` closed it: it was not
 * called again. TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_IO; TJ_ERR_FULL; TJ_ERR_CORRUPT: it may have been called for some
 * records.
 */
tj_status tj_records_each(tj_store *store,
                          const tj_query *query,
                          tj_record_fn fn,
                          void *user_data,
                          tj_error *error);

/**
 * As tj_records_each, the newest first: with a limit, the last calls.
 *
 * TJ_OK, TJ_ERR_INVALID_ARGUMENT, TJ_ERR_CLOSED, TJ_ERR_FORKED, TJ_ERR_BUSY, TJ_ERR_IO, TJ_ERR_FULL, TJ_ERR_CORRUPT:
 * as there.
 */
tj_status tj_records_recent(tj_store *store,
                            const tj_query *query,
                            tj_record_fn fn,
                            void *user_data,
                            tj_error *error);


/* ---- Looking after a store --------------------------------------------------------------------------------
 * A store looks after itself; this is for looking at it, and for what it does not do unasked.
 *
 * Beside the records lie rollups: summaries of the records of each minute, ten minutes, hour, day, 32 days and of all
 * time, where there are enough of them. Questions are answered from these, and from the records at the ends of a range,
 * so that their cost does not grow with the number of records. The store brings them up to date by itself as records come, whoever
 * wrote or changed them; those of a database that had none are made in the background, a few thousand records at a
 * time. Until then a question reads the records instead: an answer is slower without rollups, and never another.
 */

/** What has become of the records handed to a store in this process, and what the database holds. */
typedef struct tj_health {
  /** Set by TJ_HEALTH_INIT. */
  size_t struct_size;
  /** Records taken, by tj_record and from the bus. */
  uint64_t recorded;
  /** Those of them that are in the database. */
  uint64_t committed;
  /** Those that wait in the journal. */
  uint64_t waiting;
  /** Records that did not pass validation (TJ_ERR_INVALID_ARGUMENT). */
  uint64_t refused;
  /**
   * Records that were valid and could not be taken. For a record from the bus this is the only place that shows
   * it.
   */
  uint64_t failed;
  /**
   * Failures of recording and of committing, by kind: TJ_ERR_BUSY. A failed commit loses nothing: what is in the
   * journal is tried again.
   */
  uint64_t failures_busy;
  /** TJ_ERR_FULL. */
  uint64_t failures_full;
  /** TJ_ERR_CORRUPT. */
  uint64_t failures_corrupt;
  /** All others. */
  uint64_t failures_other;
  /** Records taken over from the journals of dead processes when this store was opened. */
  uint64_t adopted;
  /**
   * Journals of dead processes that could not be taken over whole. They are still there, under the database's
   * name.
   */
  uint64_t damaged_journals;
  /** Records that this store deleted by itself, because of max_age_seconds and max_bytes. */
  uint64_t pruned;
  /**
   * Records that are not in the rollups yet, at most. Up to 1,000 always may be; a question reads them
   * one by one.
   */
  uint64_t rollups_waiting;
  /** Bytes of the journal in use; 0 for a store without one. */
  uint64_t journal_used;
  /** Bytes of the journal. */
  uint64_t journal_size;
  /** Bytes of the database and its WAL; 0 in memory. */
  uint64_t database_bytes;
  /** The earliest timestamp in the database, Unix seconds; NAN if it is empty. */
  double oldest_timestamp;
  /** The latest. */
  double newest_timestamp;
  /** The status of the latest refusal or failure; TJ_OK if there was none. */
  tj_status last_status;
  /** Always 0. */
  uint32_t reserved;
  /** When that was, Unix seconds; 0 if there was none. */
  double last_failure_time;
  /** Its message, NUL-terminated UTF-8; empty if there was none. */
  char last_message[504];
} tj_health;

#define TJ_HEALTH_INIT TJ_SIZED_(tj_health)

/** A rollup that does not say what its records say. Everything in it is valid during the callback only. */
typedef struct tj_difference {
  /** The size that the library gave it. */
  size_t struct_size;
  /** The time that the rollup is of, Unix seconds: since <= timestamp ... */
  double since;
  /** ... < until. Both are infinite for all time. */
  double until;
  /** The calls that it is of: their model, ... */
  const char *model_id;
  /** ... engine ... */
  const char *engine;
  /** ... and agent. */
  const char *agent;
  /** The figure: "calls", "outcomes", "token_gaps", or the name of a field of tj_telemetry_record. */
  const char *what;
  /** What the records say: how many there are, how many of them measured it, or their sum. */
  double expected;
  /** What the rollup says. */
  double found;
} tj_difference;

/** Gets a difference. It must not unwind (no C++ exception, no longjmp) into the library. */
typedef void (*tj_difference_fn)(const struct tj_difference *difference, void *user_data);

/**
 * Learns how many of `total` records are done, and of the end by `done` == `total`. Returns 0 to go on; anything
 * else stops. It must not unwind (no C++ exception, no longjmp) into the library.
 */
typedef int32_t (*tj_progress_fn)(uint64_t done, uint64_t total, void *user_data);

/** Does what TJ_HEALTH_INIT does, for languages without macros. NULL is ignored. */
void tj_health_init(struct tj_health *health);

/**
 * Tells what has become of the records handed to this store, what the database holds, and the latest failure. Works
 * on a closed store as well, as far as there is anything to tell.
 *
 * TJ_OK: *out_health is filled; nothing in it needs freeing. TJ_ERR_INVALID_ARGUMENT; TJ_ERR_FORKED.
 */
tj_status tj_store_health(tj_store *store,
                          struct tj_health *out_health,
                          tj_error *error);

/**
 * Deletes every record, and every rollup. Records go away by this, by tj_store_prune, and by the options
 * max_age_seconds and max_bytes; in no other way.
 *
 * TJ_OK: *out_deleted is how many there were; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED;
 * TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_FULL; TJ_ERR_IO; TJ_ERR_CORRUPT. On failure every record is still there.
 */
tj_status tj_store_clear(tj_store *store, uint64_t *out_deleted, tj_error *error);

/**
 * Deletes the records whose timestamp is before `before` (Unix seconds). In a store that was opened with
 * keep_rollups it deletes only those from before the hour that `before` lies in (3600 s; it is rounded down), and
 * what tj_aggregate and tj_aggregate_series say of whole hours stays as it was.
 *
 * TJ_OK: *out_deleted is how many there were; TJ_ERR_INVALID_ARGUMENT: NULL, or `before` NaN, infinite or negative;
 * the rest as for tj_store_clear.
 */
tj_status tj_store_prune(tj_store *store,
                         double before,
                         uint64_t *out_deleted,
                         tj_error *error);

/**
 * Checks the database: by SQLite's own quick check first, then each rollup against its records. A rollup should
 * never differ; if one does, that is a fault of this library, or somebody has changed it. `fn` may be NULL; it gets
 * what differs when all has been checked, the first figure of each rollup's model, engine, agent and so on, on the
 * calling thread, with no lock held. Reads every record several times; others can record meanwhile.
 *
 * TJ_OK: *out_differences is how many there are: 0, it is hoped. TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_CORRUPT: the
 * database does not pass SQLite's check, or a rollup cannot be read; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY;
 * TJ_ERR_FULL; TJ_ERR_IO. On failure `fn` was not called.
 */
tj_status tj_store_verify(tj_store *store,
                          tj_difference_fn fn,
                          void *user_data,
                          uint64_t *out_differences,
                          tj_error *error);

/**
 * Brings the rollups up to date now, a few thousand records at a time, instead of leaving it to the store: before a
 * first look at a database with many records that has none yet, say. `progress` may be NULL; it is called on the
 * calling thread before each step and at the end, with no lock held: it may use the store. What is done stays done;
 * after a stop, or a failure, the store goes on by itself, and calling this again goes on as well.
 *
 * TJ_OK: *out_left is how many records are still not in the rollups: 0, unless `progress` stopped it.
 * TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_READ_ONLY; TJ_ERR_CLOSED; TJ_ERR_FORKED; TJ_ERR_BUSY; TJ_ERR_FULL;
 * TJ_ERR_IO; TJ_ERR_CORRUPT.
 */
tj_status tj_store_rollup(tj_store *store,
                          tj_progress_fn progress,
                          void *user_data,
                          uint64_t *out_left,
                          tj_error *error);


/* ---- Events -----------------------------------------------------------------------------------------------
 * What travels on the bus. An event about a call carries its number, its model and its engine.
 */

/** A kind's bit in a mask. */
#define TJ_EVENT_MASK(kind) (UINT64_C(1) << (kind))

/** Every kind, those of later versions included. */
#define TJ_EVENT_MASK_ALL UINT64_MAX

/** The kinds of events. TJ_EVENT_MASK(kind) is a kind's bit in a mask. */
typedef enum tj_event_kind {
  /** A call has begun. */
  TJ_EVENT_INFERENCE_START = 1,
  /** A call has ended; the event carries its record. */
  TJ_EVENT_INFERENCE_END = 2,
  /** A record that is kept. */
  TJ_EVENT_TELEMETRY_RECORD = 3,
  /** An energy batch has begun. */
  TJ_EVENT_BATCH_START = 4,
  /** An energy batch has ended. */
  TJ_EVENT_BATCH_END = 5,
  /** Published by tj_bus_publish. */
  TJ_EVENT_CUSTOM = 63,
} tj_event_kind;

/** An event. Everything in it is valid during the callback only; of a tj_polled_event, until that is freed. */
typedef struct tj_event {
  /** The size that the library gave it. */
  size_t struct_size;
  /** A tj_event_kind. */
  uint32_t kind;
  /** Numbers the events of this process, from 1. */
  uint64_t sequence;
  /** When it was published, Unix seconds. */
  double timestamp;
  /** TJ_EVENT_CUSTOM: the publisher's name; otherwise the kind's, lower case ("inference_start"). */
  const char *name;
  /** The call's model; "" if it is not about a call. */
  const char *model_id;
  /** The call's engine; "" if it is not about a call. */
  const char *engine;
  /** The call (tj_call_id); 0 if it is not about one. */
  uint64_t call_id;
  /** TJ_EVENT_TELEMETRY_RECORD and TJ_EVENT_INFERENCE_END: the call's record, unknowns as NAN and TJ_UNKNOWN. Else NULL. */
  const tj_telemetry_record *record;
  /** An object, "{}" at least. */
  const char *data_json;
} tj_event;


/* ---- The event bus ----------------------------------------------------------------------------------------
 * One per process. Subscribers are called synchronously, in the order they subscribed, on the publishing thread, with
 * no lock held: a callback may publish, subscribe and unsubscribe, itself included. Stores subscribed with
 * tj_store_subscribe have a record before any TJ_EVENT_TELEMETRY_RECORD subscriber sees it. A forked child starts with an
 * empty bus.
 */

/**
 * A subscriber. Called on the publishing thread, from several threads at once if several publish. It must not unwind
 * (no C++ exception, no longjmp) into the library.
 */
typedef void (*tj_event_fn)(const tj_event *event, void *user_data);

/**
 * Releases a subscriber's user_data. Called exactly once, after the last call of the subscriber has ended, on whichever
 * thread ended it.
 */
typedef void (*tj_drop_fn)(void *user_data);

/**
 * Subscribes `fn` to the kinds in `event_mask` (TJ_EVENT_MASK(kind) | ..., or TJ_EVENT_MASK_ALL). It is called for
 * events published from now on. `drop` may be NULL; it runs exactly once, also when this function fails.
 *
 * TJ_OK: *out_subscription is the number for tj_bus_unsubscribe, never 0. TJ_ERR_INVALID_ARGUMENT: `fn` or
 * `out_subscription` is NULL, or the mask is 0.
 */
tj_status tj_bus_subscribe(uint64_t event_mask,
                           tj_event_fn fn,
                           void *user_data,
                           tj_drop_fn drop,
                           uint64_t *out_subscription,
                           tj_error *error);

/**
 * Ends a subscription. When it returns the callback is not running, will not run again, and its drop has run; called
 * from inside the callback itself, that is so once the callback has returned. Two callbacks that unsubscribe each other
 * at the same moment wait for each other for ever: let one of them do it.
 *
 * TJ_OK; TJ_ERR_NOT_FOUND: no such subscription, or it has ended; TJ_ERR_FORKED: it is the parent process's.
 */
tj_status tj_bus_unsubscribe(uint64_t subscription,
                             tj_error *error);

/**
 * Publishes a TJ_EVENT_CUSTOM. `name` must not be empty; `data_json` is an object, NULL or "" for {} (at most 1 MiB).
 * Returns when all subscribers have returned.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: nobody saw it.
 */
tj_status tj_bus_publish(const char *name,
                         const char *data_json,
                         tj_error *error);


/* ---- Polling the bus --------------------------------------------------------------------------------------
 * For a language without callbacks on foreign threads: open a queue of events and poll it.
 */

/** A bounded queue of events. Any thread, any time, until it is freed. */
typedef struct tj_bus_queue tj_bus_queue;

/** An event taken from a queue. Initialise with TJ_POLLED_EVENT_INIT; release with tj_polled_event_free. */
typedef struct tj_polled_event {
  /** Set by TJ_POLLED_EVENT_INIT. */
  size_t struct_size;
  /** The event; valid until tj_polled_event_free. */
  const tj_event *event;
  /** How many events the queue lost, for want of room, between the event polled before and this one. */
  uint64_t lost;
  /** The library's; hands back what the event lives in. */
  void *owner;
} tj_polled_event;

#define TJ_POLLED_EVENT_INIT TJ_SIZED_(tj_polled_event)

/** Does what TJ_POLLED_EVENT_INIT does, for languages without macros. NULL is ignored. */
void tj_polled_event_init(struct tj_polled_event *polled);

/**
 * Opens a queue that takes a copy of every event of the kinds in `event_mask` from now on. It holds at most `capacity`
 * events (1 to 2^20); when it is full, further events are lost and counted.
 *
 * TJ_OK: *out_queue is a queue; free it with tj_bus_queue_free. TJ_ERR_INVALID_ARGUMENT: *out_queue is not written.
 */
tj_status tj_bus_queue_open(uint64_t event_mask,
                            uint32_t capacity,
                            struct tj_bus_queue **out_queue,
                            tj_error *error);

/**
 * Takes the oldest event, waiting up to `timeout_ms` milliseconds for one (0: not at all; UINT32_MAX: as long as it takes).
 *
 * TJ_OK: *out_polled holds it; release it with tj_polled_event_free, also before it is filled again.
 * TJ_ERR_TIMEOUT: there was none; TJ_ERR_CLOSED: tj_bus_queue_close was called and the queue is empty;
 * TJ_ERR_INVALID_ARGUMENT: NULL, or a struct_size without room for the owner; TJ_ERR_FORKED. In these cases
 * *out_polled is not written.
 */
tj_status tj_bus_poll(struct tj_bus_queue *queue,
                      uint32_t timeout_ms,
                      struct tj_polled_event *out_polled,
                      tj_error *error);

/** Releases a polled event. NULL, one that was never filled, and one that was released before are fine. */
void tj_polled_event_free(struct tj_polled_event *polled);

/**
 * Ends the queue's subscription and wakes the threads that wait in tj_bus_poll. Events that are in it can still be
 * polled. Closing twice is fine.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: NULL; TJ_ERR_FORKED.
 */
tj_status tj_bus_queue_close(struct tj_bus_queue *queue,
                             tj_error *error);

/**
 * Closes the queue and frees it, the events in it included. NULL is fine. The last use of the handle: no other thread
 * may be polling it.
 */
void tj_bus_queue_free(struct tj_bus_queue *queue);


/* ---- Requests and results ---------------------------------------------------------------------------------
 * What is asked of an engine, and what the engine has to say about it.
 */

/** One message of a conversation. NULL means "". */
typedef struct tj_message {
  /** "system", "user", "assistant" ... */
  const char *role;
  /** The text. */
  const char *content;
} tj_message;

/** What is asked of an engine. Strings: NULL means ""; everything stays the caller's. */
typedef struct tj_generate_request {
  /** Set by TJ_GENERATE_REQUEST_INIT. */
  size_t struct_size;
  /** The model. Required, not empty. */
  const char *model;
  /** The conversation; NULL if message_count is 0. */
  const struct tj_message *messages;
  /** How many messages. */
  size_t message_count;
  /** As given: this library does not judge it. */
  double temperature;
  /** As given. */
  uint32_t max_tokens;
  /** Engine-specific keywords, a JSON object (at most 1 MiB). NULL: {}. */
  const char *extra_json;
  /** Goes into the record, as do the following strings: who asks. */
  const char *agent;
  /** The batch that the call belongs to. */
  const char *batch_id;
  /** "chat", "text_completion", "embeddings" ... */
  const char *operation;
  /** The request. */
  const char *request_id;
  /** The conversation. */
  const char *session_id;
  /** The trace ... */
  const char *trace_id;
  /** ... and the span in it. */
  const char *span_id;
  /** 1: a warm-up call. */
  uint32_t is_warmup;
} tj_generate_request;

#define TJ_GENERATE_REQUEST_INIT TJ_SIZED_(tj_generate_request)

/**
 * What the engine has to say about a call it served. The engine fills it, and it goes back to the caller untouched. In
 * every field 0, NULL, NAN and TJ_UNKNOWN all mean "not given". What is given wins over what the library observed, field
 * by field.
 */
typedef struct tj_generate_result {
  /** Set by TJ_GENERATE_RESULT_INIT; for an engine callback, by the library. */
  size_t struct_size;
  /** The answer. The engine's memory: the engine says how long it lives. */
  const char *content;
  /** Tokens of the whole prompt, the cached part included. */
  uint64_t prompt_tokens;
  /** Prompt tokens that were really processed. Not given: prompt_tokens - cached_tokens where both are known. */
  uint64_t prompt_tokens_evaluated;
  /** Output tokens. Not given: as many as tj_call_tokens told. */
  uint64_t completion_tokens;
  /** Prompt tokens that came from a cache. */
  uint64_t cached_tokens;
  /** Output tokens that were reasoning. */
  uint64_t reasoning_tokens;
  /** Tokens that speculative decoding proposed ... */
  uint64_t draft_tokens;
  /** ... and those of them that were accepted. */
  uint64_t draft_accepted_tokens;
  /** Time to first token, seconds. Not given: the time of the first tj_call_tokens. */
  double ttft;
  /** US dollars. */
  double cost_usd;
  /** Seconds that the call waited before the engine began. */
  double queue_seconds;
  /** Seconds spent on the prompt. Not given: TTFT. */
  double prefill_seconds;
  /** Seconds spent on the output after its first token. Not given: latency - TTFT. */
  double decode_seconds;
  /** "stop", "length" ... */
  const char *finish_reason;
  /**
   * The class of the error, for a call that failed. Not given: "engine_code_N" for a callback that returned N
   * without having been cancelled.
   */
  const char *error_type;
  /** A JSON object for the record. */
  const char *metadata_json;
  /** Whatever the engine wants its caller to have. */
  void *user_data;
} tj_generate_result;

#define TJ_GENERATE_RESULT_INIT TJ_SIZED_(tj_generate_result)

/** Does what TJ_GENERATE_REQUEST_INIT does, for languages without macros. NULL is ignored. */
void tj_generate_request_init(struct tj_generate_request *request);

/** Does what TJ_GENERATE_RESULT_INIT does, for languages without macros. NULL is ignored. */
void tj_generate_result_init(struct tj_generate_result *result);


/* ---- Instrumented generation ------------------------------------------------------------------------------
 * An engine is one callback. tj_instrumented_generate publishes TJ_EVENT_INFERENCE_START, calls it, and publishes
 * TJ_EVENT_INFERENCE_END and TJ_EVENT_TELEMETRY_RECORD, whatever the engine returned. Prompts and answers pass through by
 * pointer; they are never stored. While energy is measured, the record follows in the background (see Energy, below). An engine whose loop cannot be turned inside out uses tj_call_begin instead, below.
 */

/** A call in flight: see below. */
typedef struct tj_call tj_call;

/**
 * An engine: fills `result` and returns 0, or returns its own error code. `call` is for tj_call_prompt, tj_call_tokens,
 * tj_call_draft, tj_call_cancel and tj_call_cancelled; it is the library's, and valid until the callback returns (another
 * thread must not use it after that). `request` is a copy of the caller's struct with the caller's pointers in it. The
 * callback must not unwind (no C++ exception, no longjmp) into the library.
 */
typedef int32_t (*tj_generate_fn)(void *engine_data,
                                  const tj_generate_request *request,
                                  tj_call *call,
                                  tj_generate_result *result);

/** An engine and its name. */
typedef struct tj_engine {
  /** Set by TJ_ENGINE_INIT. */
  size_t struct_size;
  /** Goes into the record as `engine`. NULL: "". */
  const char *engine_id;
  /** Required. */
  tj_generate_fn generate;
  /** Handed to generate as it is. */
  void *engine_data;
} tj_engine;

#define TJ_ENGINE_INIT TJ_SIZED_(tj_engine)

/** Does what TJ_ENGINE_INIT does, for languages without macros. NULL is ignored. */
void tj_engine_init(struct tj_engine *engine);

/**
 * Calls the engine and tells the bus what it cost. The call belongs to the stores that are subscribed when it begins. A
 * figure in the engine's result that cannot be (negative, infinite, a count above 2^63, text that is no UTF-8) counts as
 * not given and is named in the record's metadata under "tokenjoule.ignored": telemetry never breaks a generation.
 *
 * TJ_OK: the engine returned 0, and *out_result is what it filled in. TJ_ERR_ENGINE: it returned something else, which is
 * in error->engine_code; the call is recorded as TJ_OUTCOME_ERROR, or as TJ_OUTCOME_CANCELLED after tj_call_cancel.
 * TJ_ERR_INVALID_ARGUMENT: the engine was not called and nothing was published. On failure *out_result is not written.
 */
tj_status tj_instrumented_generate(const struct tj_engine *engine,
                                   const tj_generate_request *request,
                                   tj_generate_result *out_result,
                                   tj_error *error);


/* ---- Calls, step by step ----------------------------------------------------------------------------------
 * For engines whose loop cannot be turned inside out (continuous batching, server slots): begin a call, tell of its
 * tokens as they come, end it, free it. One thread at a time uses a call, but for tj_call_cancel, tj_call_cancelled and
 * tj_call_id, which any thread may use until it is freed. Durations are by the monotonic clock.
 */

/**
 * Begins a call: publishes TJ_EVENT_INFERENCE_START and starts the clock. The call belongs to the stores that are
 * subscribed now. `engine_id` NULL: "". Of `request` the messages, temperature, max_tokens and extra_json are only checked.
 *
 * TJ_OK: *out_call is a call; free it with tj_call_free. TJ_ERR_INVALID_ARGUMENT: the message names the field; *out_call is
 * not written and nothing was published.
 */
tj_status tj_call_begin(const char *engine_id,
                        const tj_generate_request *request,
                        tj_call **out_call,
                        tj_error *error);

/**
 * Tells the length of the whole prompt, and how much of it came from a cache, as soon as it is known. TJ_UNKNOWN for
 * either. NULL, and a call that has ended, are ignored.
 */
void tj_call_prompt(tj_call *call,
                    uint64_t prompt_tokens,
                    uint64_t cached_tokens);

/**
 * Tells that `count` more output tokens exist as of now. The first call gives TTFT; the gap to each later one, divided by
 * its `count`, is the inter-token latency of each of its tokens. Reads the clock once, and allocates only where a gap is of
 * another order of magnitude than those before it. 0, NULL, and a call that has ended, are ignored. On a GPU call it after
 * the device was synchronised (in llama.cpp: after sampling).
 */
void tj_call_tokens(tj_call *call,
                    uint32_t count);

/**
 * Tells of a step of speculative decoding: so many tokens proposed, so many of them accepted. Steps add up. NULL, and a
 * call that has ended, are ignored.
 */
void tj_call_draft(tj_call *call,
                   uint32_t proposed,
                   uint32_t accepted);

/** Asks the engine to stop. From any thread; NULL is ignored. The engine sees it through tj_call_cancelled. */
void tj_call_cancel(tj_call *call);

/**
 * Has the call been asked to stop? From any thread; false for NULL. `call` is a tj_call; it is a void pointer so that the
 * function fits where llama.cpp wants a ggml_abort_callback.
 */
bool tj_call_cancelled(void *call);

/** The number that the call's events carry as call_id; 0 for NULL. From any thread. */
uint64_t tj_call_id(const tj_call *call);

/**
 * Ends a call: publishes TJ_EVENT_INFERENCE_END, hands the record to the call's stores, and publishes
 * TJ_EVENT_TELEMETRY_RECORD; while energy is measured (tj_energy_start), the latter two follow in the background. `outcome`
 * is a tj_outcome; `result` is what the engine itself knows, and may be NULL.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field, and the call goes on; TJ_ERR_CLOSED: it has ended before, and
 * nothing was recorded; TJ_ERR_FORKED. Stores that could not record show it in tj_store_health.
 */
tj_status tj_call_end(tj_call *call,
                      uint32_t outcome,
                      const tj_generate_result *result,
                      tj_error *error);

/**
 * Frees a call. Always needed after tj_call_begin, and the last use of the handle; NULL is fine. A call without an end is
 * recorded as TJ_OUTCOME_ABANDONED first. A call that tj_instrumented_generate lent to an engine is left alone.
 */
void tj_call_free(tj_call *call);


/* ---- Energy -----------------------------------------------------------------------------------------------
 * Joules per call. After tj_energy_start one thread reads the counters of the machine, every 100 ms while a call is in
 * flight and every second otherwise, and splits what they moved among the calls in flight: evenly over time between two
 * readings, by weight among the calls that run at the same moment. What no call had is unattributed, and at any moment
 * attributed + unattributed + idle = what the counters moved. A record gets energy_joules (of all devices together), its
 * parts, power_watts, prefill and decode energy (cut at the first tj_call_tokens), tokens_per_joule,
 * energy_per_output_token_joules, throughput_per_watt, the GPUs' utilisation, memory and temperature, and energy_method
 * and energy_vendor of the first device in the order nvidia, amd, apple, others, cpu_rapl. Its metadata says under
 * "tokenjoule.energy_tier" how far to trust it: "measured"; "estimated", for a call that is shorter than the time between
 * two readings of a device, or of which up to a tenth was not read; or "unknown", and then energy_joules is.
 *
 * A call's energy is known when its devices have been read after its end, and tj_call_end does not wait for that. While
 * energy is measured, TJ_EVENT_INFERENCE_END is published before tj_call_end returns, with a record without energy; the
 * record is kept, and TJ_EVENT_TELEMETRY_RECORD published, after the next reading, on the sampler's thread or on that of
 * whoever makes it read. A question to a store makes it read, and sees the calls that have ended, but for those that wait
 * for a counter that moves slowly; tj_store_flush, tj_store_clear and tj_store_close wait for them all, one second at
 * most. A device that cannot be read is waited for two seconds at most. If the process dies meanwhile, the record is in
 * the journal, without its energy.
 *
 * The sources, and how often what they read moves:
 * - nvml: NVIDIA GPUs; the energy counter (Volta and later), every 20 to 100 ms; else the power, integrated.
 * - hwmon: GPUs of AMD and Intel; the energy counter where there is one, every 10 ms or so; else the power, integrated.
 * - rapl: processors and memory; the energy counter of each package, and of DRAM where it has one, every millisecond.
 * - custom: the host program's; what its callback says.
 *
 * What is not there, or may not be read, is no error: tj_energy_sources says why, and what to do. A GPU that shares its
 * package with the processor is counted by both hwmon and rapl: use one of them. A forked child begins without energy.
 */

/** Kinds of sources: bits of tj_energy_options.kinds. */
typedef enum tj_energy_kind {
  /**
   * NVIDIA GPUs, by the driver's library, which is loaded at run time. CUDA_VISIBLE_DEVICES is respected, its numbers
   * taken as by CUDA_DEVICE_ORDER=PCI_BUS_ID. An instance of a GPU (MIG) counts as the whole GPU.
   */
  TJ_ENERGY_NVML = 1,
  /** Processor packages, and memory where it has a counter of its own, by Linux's powercap. */
  TJ_ENERGY_RAPL = 2,
  /** GPUs of amdgpu, i915 and xe, by sysfs. */
  TJ_ENERGY_HWMON = 4,
  /** Those of tj_energy_register_source. */
  TJ_ENERGY_CUSTOM = 8,
} tj_energy_kind;

/** Parts of a machine. */
typedef enum tj_energy_part {
  /** Counts into gpu_energy_joules. */
  TJ_ENERGY_PART_GPU = 1,
  /** Counts into cpu_energy_joules. */
  TJ_ENERGY_PART_CPU = 2,
  /** Counts into dram_energy_joules. */
  TJ_ENERGY_PART_DRAM = 3,
  /** Counts into energy_joules only. */
  TJ_ENERGY_PART_OTHER = 4,
} tj_energy_part;

/** By what calls share that run at the same moment. */
typedef enum tj_energy_weight {
  /** All the same. */
  TJ_ENERGY_WEIGHT_EQUAL = 0,
  /** Each counts as one, and one more for each output token since the reading before. */
  TJ_ENERGY_WEIGHT_TOKENS = 1,
} tj_energy_weight;

/** How to measure. Zero in a field is its default. */
typedef struct tj_energy_options {
  /** Set by TJ_ENERGY_OPTIONS_INIT. */
  size_t struct_size;
  /**
   * Milliseconds between two readings, at most 60000. 0: 100 while a call is in flight, more if all counters move more
   * slowly, and 1000 otherwise. Always short enough that no counter wraps unseen.
   */
  uint32_t interval_ms;
  /** tj_energy_kind | ... 0: all. */
  uint32_t kinds;
  /** A tj_energy_weight. */
  uint32_t weight;
  /** 1: what a device draws without a call, once that has been seen for a second, is no call's: it is reported as idle. */
  uint32_t leave_idle_out;
  /** NVIDIA's library. NULL or "": libnvidia-ml.so.1, where the loader finds it. */
  const char *nvml_path;
  /** NULL or "": /sys/class/powercap. */
  const char *powercap_root;
  /** NULL or "": /sys/class/drm. */
  const char *drm_root;
  /** NULL or "": /sys/class/hwmon. */
  const char *hwmon_root;
} tj_energy_options;

#define TJ_ENERGY_OPTIONS_INIT TJ_SIZED_(tj_energy_options)

/** A device that can be read, or something that cannot. Strings are owned by the tj_energy_source_list. */
typedef struct tj_energy_source {
  /** "nvml", "rapl", "hwmon" or "custom". */
  const char *kind;
  /** The device; "" where a whole kind is not there. */
  const char *name;
  /** As in a record: "nvidia", "amd", "intel", "cpu_rapl" ... "" if it cannot be read. */
  const char *vendor;
  /** As in a record: "hw_counter", "polling", "rapl" ... "" if it cannot be read. */
  const char *method;
  /** A tj_energy_part; 0 if it cannot be read. */
  uint32_t part;
  /** 1: it can be read. */
  uint32_t is_available;
  /** How often its counter moves, seconds; 0: at every reading. */
  double update_period_seconds;
  /** Joules at which its counter begins at 0 again; NAN if it does not. */
  double wraps_at_joules;
  /** Why it cannot be read, and what to do; "" if it can. */
  const char *reason;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[8];
} tj_energy_source;

/** Sources. Initialise with TJ_ENERGY_SOURCE_LIST_INIT; release with tj_energy_source_list_free. */
typedef struct tj_energy_source_list {
  /** Set by TJ_ENERGY_SOURCE_LIST_INIT. */
  size_t struct_size;
  /** Those that can be read first. NULL if there are none. */
  const struct tj_energy_source *sources;
  /** How many. */
  size_t source_count;
  /** The library's; hands back what the list lives in. */
  void *owner;
} tj_energy_source_list;

#define TJ_ENERGY_SOURCE_LIST_INIT TJ_SIZED_(tj_energy_source_list)

/** What has become of a device's joules since the start. Strings are owned by the tj_energy_totals. */
typedef struct tj_energy_device {
  /** "nvml", "rapl", "hwmon" or "custom". */
  const char *kind;
  /** The device. */
  const char *name;
  /** As in a record. */
  const char *vendor;
  /** As in a record. */
  const char *method;
  /** A tj_energy_part. */
  uint32_t part;
  /** 1: its source was taken out; it is not read any more. */
  uint32_t is_gone;
  /** Joules that its counter moved ... */
  double counter_joules;
  /** ... those of calls ... */
  double attributed_joules;
  /** ... those of nobody ... */
  double unattributed_joules;
  /** ... and those left out by leave_idle_out. */
  double idle_joules;
  /** Seconds of which nobody knows what it drew: before the first reading, and where its counter was reset. */
  double lost_seconds;
  /** Mean power between the latest two readings, watts; NAN before there were two. */
  double power_watts;
  /** What it draws without a call, watts; NAN if that has not been seen for a second. */
  double idle_watts;
  /** Readings that failed. */
  uint64_t failed_reads;
  /** Always 0; room for later versions, so that the stride of arrays never changes. */
  uint64_t reserved[8];
} tj_energy_device;

/**
 * What was measured since the latest tj_energy_start, up to the latest reading. Initialise with TJ_ENERGY_TOTALS_INIT;
 * release with tj_energy_totals_free.
 */
typedef struct tj_energy_totals {
  /** Set by TJ_ENERGY_TOTALS_INIT. */
  size_t struct_size;
  /** 1: energy is measured; 0: it was. */
  uint32_t is_running;
  /** Always 0. */
  uint32_t reserved;
  /** When it was started, Unix seconds. */
  double since;
  /** From then to the latest reading, seconds. */
  double seconds;
  /** Joules that the counters of all devices moved ... */
  double counter_joules;
  /** ... those of calls, the part of calls in flight included ... */
  double attributed_joules;
  /** ... those of nobody ... */
  double unattributed_joules;
  /** ... and those left out by leave_idle_out. */
  double idle_joules;
  /** Calls in flight, and those that have ended and wait for a reading. */
  uint64_t calls;
  /** The interval between two readings while a call is in flight, seconds. */
  double interval_seconds;
  /** How often the devices were read ... */
  uint64_t reads;
  /** ... and the processor time that it took, seconds. */
  double cpu_seconds;
  /** The devices. NULL if there are none. */
  const struct tj_energy_device *devices;
  /** How many. */
  size_t device_count;
  /** The library's; hands back what the list lives in. */
  void *owner;
} tj_energy_totals;

#define TJ_ENERGY_TOTALS_INIT TJ_SIZED_(tj_energy_totals)

/** Does what TJ_ENERGY_OPTIONS_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_options_init(struct tj_energy_options *options);

/**
 * Starts measuring; returns when every device has been read once. `options` NULL: all defaults. That there is nothing to
 * measure is no failure.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; TJ_ERR_BUSY: energy is measured already, or this is inside
 * of a source's callback; TJ_ERR_IO: no thread can be started. On failure all is as it was.
 */
tj_status tj_energy_start(const struct tj_energy_options *options,
                          tj_error *error);

/**
 * Stops measuring, after a last reading: calls that have ended are recorded when it returns. Calls in flight go on; the
 * energy that they have by now is theirs if they end before a tenth of them is unmeasured, and is unattributed otherwise.
 * tj_energy_read goes on answering. Open windows are gone.
 *
 * TJ_OK; TJ_ERR_CLOSED: energy is not measured; TJ_ERR_BUSY: this is inside of a source's callback.
 */
tj_status tj_energy_stop(tj_error *error);

/** Does what TJ_ENERGY_SOURCE_LIST_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_source_list_init(struct tj_energy_source_list *list);

/**
 * Lists what can be read, and what cannot and why. `options` NULL: what is being measured, or what would be with the
 * default options; otherwise what would be with these, which is found out by reading it.
 *
 * TJ_OK: *out_sources is filled; release it with tj_energy_source_list_free, also before it is filled again.
 * TJ_ERR_INVALID_ARGUMENT: the message names the field, or a struct_size without room for the owner; TJ_ERR_BUSY: this is
 * inside of a source's callback. On failure *out_sources is not written.
 */
tj_status tj_energy_sources(const struct tj_energy_options *options,
                            struct tj_energy_source_list *out_sources,
                            tj_error *error);

/**
 * Releases what a filled tj_energy_source_list owns. NULL, an initialised one that was never filled, and one that was
 * released before are fine.
 */
void tj_energy_source_list_free(struct tj_energy_source_list *list);

/** Does what TJ_ENERGY_TOTALS_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_totals_init(struct tj_energy_totals *totals);

/**
 * Tells where the joules went since the latest tj_energy_start, also after tj_energy_stop. Reads no device.
 *
 * TJ_OK: *out_totals is filled; release it with tj_energy_totals_free, also before it is filled again.
 * TJ_ERR_CLOSED: energy was never measured; TJ_ERR_INVALID_ARGUMENT: NULL, or a struct_size without room for the owner.
 * On failure *out_totals is not written.
 */
tj_status tj_energy_read(struct tj_energy_totals *out_totals,
                         tj_error *error);

/**
 * Releases what a filled tj_energy_totals owns. NULL, an initialised one that was never filled, and one that was released
 * before are fine.
 */
void tj_energy_totals_free(struct tj_energy_totals *totals);


/* ---- Measuring a stretch ----------------------------------------------------------------------------------
 * What the machine drew from one moment to another, whatever ran: the reference's `sample()`.
 */

/** What was measured in a window: all that the devices drew, whoever caused it. NAN: not measured. */
typedef struct tj_energy_window {
  /** Set by TJ_ENERGY_WINDOW_INIT. */
  size_t struct_size;
  /** Its length. */
  double seconds;
  /** Joules of all devices. */
  double energy_joules;
  /** The GPUs' part ... */
  double gpu_energy_joules;
  /** ... the processors' ... */
  double cpu_energy_joules;
  /** ... the memory's ... */
  double dram_energy_joules;
  /** ... and that of TJ_ENERGY_PART_OTHER. */
  double other_energy_joules;
  /** Energy / length, watts. */
  double mean_power_watts;
  /** The highest power between two readings, watts. */
  double peak_power_watts;
  /** Of the GPUs, 0 to 100. */
  double mean_utilization_pct;
  /** Of the GPUs, 0 to 100. */
  double peak_utilization_pct;
  /** Of the GPUs together, GB of 2^30 bytes. */
  double mean_memory_used_gb;
  /** Of the GPUs together, GB of 2^30 bytes. */
  double peak_memory_used_gb;
  /** Of the GPUs, degrees Celsius. */
  double mean_temperature_c;
  /** Of the GPUs, degrees Celsius. */
  double peak_temperature_c;
  /** How often the devices were read in it. */
  uint64_t readings;
} tj_energy_window;

#define TJ_ENERGY_WINDOW_INIT TJ_SIZED_(tj_energy_window)

/** Does what TJ_ENERGY_WINDOW_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_window_init(struct tj_energy_window *window);

/**
 * Begins to measure a stretch, whatever happens in it, and reads the devices now: the reference's sample(). Windows may
 * overlap each other and calls, and take nothing from either.
 *
 * TJ_OK: *out_window is the number for tj_energy_window_end, never 0. TJ_ERR_CLOSED: energy is not measured; TJ_ERR_BUSY:
 * this is inside of a source's callback; TJ_ERR_INVALID_ARGUMENT: NULL. On failure *out_window is not written.
 */
tj_status tj_energy_window_begin(uint64_t *out_window,
                                 tj_error *error);

/**
 * Ends a window, and reads the devices now. What a counter that moves slowly has not shown yet is not in it: windows should
 * be longer than update_period_seconds.
 *
 * TJ_OK: *out_measured is filled; nothing in it needs freeing. TJ_ERR_NOT_FOUND: no such window, or it has ended, or
 * energy was stopped; TJ_ERR_FORKED: it is the parent process's; TJ_ERR_BUSY: this is inside of a source's callback;
 * TJ_ERR_INVALID_ARGUMENT: the window goes on. On failure *out_measured is not written.
 */
tj_status tj_energy_window_end(uint64_t window,
                               struct tj_energy_window *out_measured,
                               tj_error *error);


/* ---- Sources of one's own ---------------------------------------------------------------------------------
 * Rails of a board, another vendor's library, a wall meter: whatever the host program can read.
 */

/** What a callback says of its device. All NAN when it is called; it sets what it knows: joules, or else watts. */
typedef struct tj_energy_reading {
  /** The size that the library gave it. */
  size_t struct_size;
  /** Joules by a counter that only grows. A step back is taken for a new counter. */
  double joules;
  /** The power now, watts, which the library integrates. */
  double watts;
  /** 0 to 100; of a GPU. */
  double utilization_pct;
  /** GB of 2^30 bytes; of a GPU. */
  double memory_used_gb;
  /** Degrees Celsius; of a GPU. */
  double temperature_c;
} tj_energy_reading;

/**
 * Reads the host program's own device into `reading` and returns 0; anything else is a reading that failed. Called by one
 * thread at a time, most often the sampler's. It must not unwind (no C++ exception, no longjmp) into the library, and may
 * use the library, but for what starts, stops and looks into energy, which answers TJ_ERR_BUSY.
 */
typedef int32_t (*tj_energy_read_fn)(struct tj_energy_reading *reading, void *user_data);

/** A source of the host program's own: rails of a board, another vendor's library, a wall meter. */
typedef struct tj_energy_custom {
  /** Set by TJ_ENERGY_CUSTOM_INIT. */
  size_t struct_size;
  /** The device. Required, not empty. */
  const char *name;
  /** Goes into records as energy_vendor. NULL or "": "custom". */
  const char *vendor;
  /** Goes into records as energy_method. NULL or "": "custom". */
  const char *method;
  /** A tj_energy_part. 0: TJ_ENERGY_PART_OTHER. */
  uint32_t part;
  /** How often its counter moves, milliseconds, at most 60000. 0: at every reading. */
  uint32_t update_period_ms;
  /** Required. */
  tj_energy_read_fn read;
  /** Handed to read as it is. */
  void *user_data;
  /** Releases user_data; may be NULL. */
  tj_drop_fn drop;
} tj_energy_custom;

#define TJ_ENERGY_CUSTOM_INIT TJ_SIZED_(tj_energy_custom)

/** Does what TJ_ENERGY_CUSTOM_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_custom_init(struct tj_energy_custom *custom);

/**
 * Registers a source: for what is being measured, if TJ_ENERGY_CUSTOM is among its kinds, and for each tj_energy_start
 * from now on. drop runs exactly once, after the last call of read, also when this function fails with a `custom` that
 * could be read.
 *
 * TJ_OK: *out_source is the number for tj_energy_unregister_source, never 0. TJ_ERR_INVALID_ARGUMENT: the message names
 * the field; TJ_ERR_BUSY: this is inside of a source's callback. On failure *out_source is not written.
 */
tj_status tj_energy_register_source(const struct tj_energy_custom *custom,
                                    uint64_t *out_source,
                                    tj_error *error);

/**
 * Takes a source out. When it returns, read is not running and will not run again, and drop has run.
 *
 * TJ_OK; TJ_ERR_NOT_FOUND: no such source, or it was taken out; TJ_ERR_FORKED: it is the parent process's; TJ_ERR_BUSY:
 * this is inside of a source's callback.
 */
tj_status tj_energy_unregister_source(uint64_t source,
                                      tj_error *error);


/* ---- Cost -------------------------------------------------------------------------------------------------
 * When a call ends (tj_call_end, tj_instrumented_generate), its cost_usd is, by the first of these rules that applies:
 *
 * "reported": what the engine reports in tj_generate_result.cost_usd.
 *
 * "table": the price of the model. Prompt tokens that came from no cache x input + cached_tokens x cached input +
 * output tokens that were no reasoning x output + reasoning_tokens x reasoning. Tokens of which nobody says that they
 * were cached, or reasoning, are taken for ordinary ones.
 *
 * "local": for a model without a price. energy_joules / 3600000 x electricity + latency_seconds x hardware.
 *
 * A cost of which a part is unknown (a price without the number of tokens, an electricity price without energy) is
 * unknown: it would be too low. A model that has a price is never costed as local.
 *
 * The price of a model is looked for under the record's model_id, then under "engine/model_id"; case matters. Prices
 * set by tj_cost_set_price come before those loaded by tj_cost_load_prices.
 *
 * Which rule it was is stored in the record's metadata under "tokenjoule.cost_rule" ("reported", "table" or "local"),
 * the version of the price table, if it has one, under "tokenjoule.price_table", and grams of CO2 equivalent,
 * energy_joules / 3600000 x carbon intensity, under "tokenjoule.co2e_grams". What the engine has put into the metadata
 * stays. Without any rule set here, nothing is added.
 *
 * Rules are the process's, and may be changed while calls end: each call is costed by the rules of one moment. A forked
 * child begins with none. A record handed to tj_record is stored as it is; tj_cost_estimate tells what it cost.
 */

/** What gave a cost. */
typedef enum tj_cost_rule {
  /** Nothing: it is not known. */
  TJ_COST_UNKNOWN = 0,
  /** The engine. */
  TJ_COST_REPORTED = 1,
  /** The model's price per token. */
  TJ_COST_TABLE = 2,
  /** Electricity and hardware. */
  TJ_COST_LOCAL = 3,
} tj_cost_rule;

/** The price of a model, in US dollars per token (a price per million tokens / 1000000). */
typedef struct tj_price {
  /** Set by TJ_PRICE_INIT. */
  size_t struct_size;
  /** The model, or "engine/model". Required, not empty. */
  const char *model;
  /** A prompt token that came from no cache. 0: free. */
  double input_usd_per_token;
  /** An output token. 0: free. */
  double output_usd_per_token;
  /** A prompt token that came from a cache. 0: as input_usd_per_token, unless ... */
  double cached_input_usd_per_token;
  /** An output token that was reasoning. 0: as output_usd_per_token. */
  double reasoning_usd_per_token;
  /** ... this is 1: cached tokens are free. */
  uint32_t cached_input_is_free;
  /** Must be 0. */
  uint32_t reserved;
  /** Which prices these are ("2026-02"), at most 127 bytes; goes into the metadata of records. NULL: "". */
  const char *version;
} tj_price;

#define TJ_PRICE_INIT TJ_SIZED_(tj_price)

/** How models are costed that nobody sells. 0 in a field leaves it out. */
typedef struct tj_local_cost {
  /** Set by TJ_LOCAL_COST_INIT. */
  size_t struct_size;
  /** US dollars per kWh. If it is not 0, a call without energy_joules has no local cost. */
  double electricity_usd_per_kwh;
  /**
   * US dollars per second of a call. Of calls at the same time each pays for its own: divide the hardware's cost by
   * the number of calls that it usually serves at once.
   */
  double hardware_usd_per_second;
  /** Grams of CO2 equivalent per kWh. Counted for every call that has energy_joules, whatever its cost comes from. */
  double carbon_grams_per_kwh;
} tj_local_cost;

#define TJ_LOCAL_COST_INIT TJ_SIZED_(tj_local_cost)

/** What the rules say of a record. */
typedef struct tj_cost {
  /** Set by TJ_COST_INIT. */
  size_t struct_size;
  /** US dollars; NAN if rule is TJ_COST_UNKNOWN. */
  double cost_usd;
  /** Grams of CO2 equivalent; NAN without carbon_grams_per_kwh or without energy_joules. */
  double co2e_grams;
  /** A tj_cost_rule. */
  uint32_t rule;
  /** Always 0. */
  uint32_t reserved;
  /** The version of the prices that gave it, NUL-terminated UTF-8; empty if none did, or they have none. */
  char price_table[128];
} tj_cost;

#define TJ_COST_INIT TJ_SIZED_(tj_cost)

/** Does what TJ_PRICE_INIT does, for languages without macros. NULL is ignored. */
void tj_price_init(struct tj_price *price);

/** Does what TJ_LOCAL_COST_INIT does, for languages without macros. NULL is ignored. */
void tj_local_cost_init(struct tj_local_cost *local);

/** Does what TJ_COST_INIT does, for languages without macros. NULL is ignored. */
void tj_cost_init(struct tj_cost *cost);

/**
 * Sets the price of a model, in place of the one that was set before. It stays when a table is loaded.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field and the model; a price is not negative, NaN or infinite.
 */
tj_status tj_cost_set_price(const struct tj_price *price,
                            tj_error *error);

/**
 * Loads a table of prices, in place of the one that was loaded before: a JSON object of models, each an object of
 * prices (at most 64 MiB). `version` says which table it is ("2026-02-01", a commit ...), at most 127 bytes; NULL: "".
 *
 * Each price may be given per token, under the names of LiteLLM's public file (model_prices_and_context_window.json),
 * which can be loaded as it is, or per million tokens:
 *
 *   input_cost_per_token             or  input_usd_per_million_tokens
 *   output_cost_per_token            or  output_usd_per_million_tokens
 *   cache_read_input_token_cost      or  cached_input_usd_per_million_tokens
 *   output_cost_per_reasoning_token  or  reasoning_usd_per_million_tokens
 *   litellm_provider                 or  provider: the model is found under "provider/model" as well
 *
 * A price that is missing or null is not given: cached and reasoning tokens then cost what the others do; a call with
 * prompt or output tokens that have no price has no cost. Other names, the entry "sample_spec", and models without any
 * of these prices are passed over; so are prices by the length of the prompt (..._above_200k_tokens), for writing a
 * cache, and for batches: the cost of such calls is that of ordinary ones.
 *
 * TJ_OK: *out_count is the number of models with a price. TJ_ERR_INVALID_ARGUMENT: the message names the model and the
 * price, and what was loaded before stays.
 */
tj_status tj_cost_load_prices(const char *prices_json,
                              const char *version,
                              uint64_t *out_count,
                              tj_error *error);

/**
 * Sets how models are costed that have no price, and how CO2 is counted, in place of what was set before. A struct that
 * is zero ends both.
 *
 * TJ_OK; TJ_ERR_INVALID_ARGUMENT: the message names the field; it is not negative, NaN or infinite.
 */
tj_status tj_cost_set_local(const struct tj_local_cost *local,
                            tj_error *error);

/** Forgets every price and how local models are costed. Records keep their costs. */
void tj_cost_clear(void);

/**
 * Tells what the rules say now of a call. Of `record` it looks at model_id, engine, prompt_tokens, cached_tokens,
 * completion_tokens, reasoning_tokens, latency_seconds and energy_joules; a cost_usd other than 0 and NAN is what the
 * engine reported. Nothing is recorded.
 *
 * TJ_OK: *out_cost is filled; nothing in it needs freeing. TJ_ERR_INVALID_ARGUMENT: the message names the field, as for
 * tj_record; *out_cost is not written.
 */
tj_status tj_cost_estimate(const tj_telemetry_record *record,
                           struct tj_cost *out_cost,
                           tj_error *error);


/* ---- Efficiency -------------------------------------------------------------------------------------------
 * Pure functions: they know nothing of stores and calls, and never fail where a double says it all. Of an unknown input
 * (NAN, TJ_UNKNOWN), and of one that cannot be (negative, infinite, 0 where a divisor is needed), comes NAN; nothing is
 * ever infinite.
 */

/**
 * What a GPU can do at most, without sparsity, as its vendor says. NAN: the vendor gives no such figure, or the GPU
 * cannot.
 */
typedef struct tj_gpu_peak {
  /** Set by TJ_GPU_PEAK_INIT. */
  size_t struct_size;
  /** What it is called here. Static. */
  const char *name;
  /** The vendor's paper with these figures. Static. */
  const char *source;
  /** FLOP/s in FP32, outside of tensor cores. */
  double fp32_flops;
  /** FLOP/s in TF32. */
  double tf32_flops;
  /** FLOP/s in FP16, accumulated in FP32. */
  double fp16_flops;
  /** FLOP/s in BF16. */
  double bf16_flops;
  /** FLOP/s in FP8, accumulated in FP32. */
  double fp8_flops;
  /** FLOP/s in FP4. */
  double fp4_flops;
  /** Operations per second in INT8. */
  double int8_ops;
  /** Bytes per second from memory (a vendor's GB/s x 10^9). */
  double memory_bytes_per_second;
} tj_gpu_peak;

#define TJ_GPU_PEAK_INIT TJ_SIZED_(tj_gpu_peak)

/** One part of a call. */
typedef struct tj_phase {
  /** Joules. */
  double energy_joules;
  /** Its length. */
  double seconds;
  /** energy_joules / seconds. */
  double mean_power_watts;
  /** energy_joules / tokens. */
  double energy_per_token_joules;
  /** Prompt tokens, or output tokens; TJ_UNKNOWN if they were not counted. */
  uint64_t tokens;
  /** Always 0. */
  uint64_t reserved[4];
} tj_phase;

/** A call's two parts. */
typedef struct tj_phases {
  /** Set by TJ_PHASES_INIT. */
  size_t struct_size;
  /** Up to the first output token: prefill_energy_joules, prefill_latency_seconds (or ttft), prompt_tokens. */
  struct tj_phase prefill;
  /** From there on: decode_energy_joules, decode_latency_seconds (or latency_seconds - ttft), completion_tokens. */
  struct tj_phase decode;
} tj_phases;

#define TJ_PHASES_INIT TJ_SIZED_(tj_phases)

/** When a series of samples counts as steady. */
typedef struct tj_steady_options {
  /** Set by TJ_STEADY_OPTIONS_INIT. */
  size_t struct_size;
  /** So many samples at the beginning are never looked at. 0: 5, unless ... */
  uint32_t warmup_samples;
  /** ... this is 1: there is no warm-up. */
  uint32_t no_warmup;
  /** The coefficient of variation is that of the last so many samples. 0: 5. */
  uint32_t window_size;
  /** Steady is what was below the threshold so many times running. 0: 3. */
  uint32_t min_steady_samples;
  /** 0: 0.05. */
  double cv_threshold;
} tj_steady_options;

#define TJ_STEADY_OPTIONS_INIT TJ_SIZED_(tj_steady_options)

/** What a series of samples came to. */
typedef struct tj_steady_state {
  /** Set by TJ_STEADY_STATE_INIT. */
  size_t struct_size;
  /** Samples. */
  uint64_t total_samples;
  /** Those of the warm-up. */
  uint64_t warmup_samples;
  /** Those after it, as in the reference, whether or not the series became steady. */
  uint64_t steady_state_samples;
  /** The sample, counted from 0, at which the series had become steady; TJ_UNKNOWN if it did not. */
  uint64_t reached_at;
  /** 1: it did. It stays so, whatever comes after. */
  uint32_t steady_state_reached;
  /** Always 0. */
  uint32_t reserved;
  /** That of the last window; NAN if there were not enough samples for one. */
  double coefficient_of_variation;
  /** The mean of the last window. */
  double mean;
} tj_steady_state;

#define TJ_STEADY_STATE_INIT TJ_SIZED_(tj_steady_state)

/** The energy of requests that were served together. */
typedef struct tj_energy_batch {
  /** Set by TJ_ENERGY_BATCH_INIT. */
  size_t struct_size;
  /** Requests. */
  uint64_t total_requests;
  /** Those of them whose own energy was measured. */
  uint64_t measured_requests;
  /** Tokens, as far as they are known. */
  uint64_t total_tokens;
  /** Joules. */
  double total_energy_joules;
  /** Energy / tokens; NAN if the tokens of one request are unknown. */
  double energy_per_token_joules;
  /** Energy / requests. */
  double energy_per_request_joules;
  /** Energy / seconds. */
  double mean_power_watts;
  /** Tokens / seconds; NAN if the tokens of one request are unknown. */
  double mean_throughput_tok_per_sec;
} tj_energy_batch;

#define TJ_ENERGY_BATCH_INIT TJ_SIZED_(tj_energy_batch)

/**
 * Floating-point operations of a call with a KV cache: 2 x params x (prompt_tokens + completion_tokens). `params` are
 * the parameters that a token meets: of a mixture of experts, the active ones. The whole prompt counts, also what came
 * from a cache. (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1, without attention.)
 */
double tj_flops_estimate(double params,
                         uint64_t prompt_tokens,
                         uint64_t completion_tokens);

/**
 * The same without a KV cache, where every token is computed again for each that follows: the sum of 2 x params x i for
 * i from 1 to n = prompt_tokens + completion_tokens, which is params x n x (n + 1).
 */
double tj_flops_estimate_uncached(double params,
                                  uint64_t prompt_tokens,
                                  uint64_t completion_tokens);

/**
 * Bytes of weights that are read from memory: params x bytes_per_param x steps. FP16 has 2 bytes, FP8 1, a 4-bit
 * quantisation about 0.5. A step of decoding reads all weights once, for however many calls it makes a token. The KV
 * cache is not counted.
 */
double tj_weight_bytes_estimate(double params,
                                double bytes_per_param,
                                uint64_t steps);

/**
 * Model FLOPs utilisation, percent: flops / seconds / (peak_flops x gpu_count) x 100. `peak_flops` is one GPU's, per
 * second, at the precision that is computed in: see tj_gpu_peak_find. (Chowdhery et al. 2022, "PaLM", appendix B.)
 */
double tj_mfu_compute(double flops,
                      double seconds,
                      double peak_flops,
                      uint32_t gpu_count);

/**
 * Model bandwidth utilisation, percent: bytes / seconds / (peak_bytes_per_second x gpu_count) x 100. (Agarwal et al.
 * 2023, "LLM Inference Performance Engineering: Best Practices", Databricks.)
 */
double tj_mbu_compute(double bytes,
                      double seconds,
                      double peak_bytes_per_second,
                      uint32_t gpu_count);

/** Intelligence per joule: accuracy / energy_joules, with an accuracy from 0 to 1. */
double tj_ipj_compute(double accuracy, double energy_joules);

/** Does what TJ_GPU_PEAK_INIT does, for languages without macros. NULL is ignored. */
void tj_gpu_peak_init(struct tj_gpu_peak *peak);

/**
 * Looks a GPU up by the name that its driver gives it ("NVIDIA A100-SXM4-80GB"), or in short ("A100"). Whole words
 * count, in any case: "L40S" is not an "L4", and an "RTX 4090 Laptop GPU" no "RTX 4090". Known are GB200, B200, H200,
 * H100 (SXM, PCIe, NVL), A100 (40GB, 80GB), A40, A30, A10, L40S, L40, L4, T4, V100, V100S, RTX 5090, 4090, 4080, 3090;
 * MI325X, MI300X; and the memory bandwidth of Apple's M1, M2 and M3 Ultra, M1 and M2 Max. A name without a form factor
 * or a size of memory is taken for the SXM module with the most memory.
 *
 * TJ_OK: *out_peak is filled; nothing in it needs freeing. TJ_ERR_NOT_FOUND: there is no such GPU here.
 * TJ_ERR_INVALID_ARGUMENT. On failure *out_peak is not written.
 */
tj_status tj_gpu_peak_find(const char *gpu_name,
                           struct tj_gpu_peak *out_peak,
                           tj_error *error);

/** Does what TJ_PHASES_INIT does, for languages without macros. NULL is ignored. */
void tj_phases_init(struct tj_phases *phases);

/**
 * Splits a record at its first output token. Energy that was not measured apart is NAN: it is not split by time.
 *
 * TJ_OK: *out_phases is filled. TJ_ERR_INVALID_ARGUMENT: the message names the field, as for tj_record; *out_phases is
 * not written.
 */
tj_status tj_phases_split(const tj_telemetry_record *record,
                          struct tj_phases *out_phases,
                          tj_error *error);

/** Does what TJ_STEADY_OPTIONS_INIT does, for languages without macros. NULL is ignored. */
void tj_steady_options_init(struct tj_steady_options *options);

/** Does what TJ_STEADY_STATE_INIT does, for languages without macros. NULL is ignored. */
void tj_steady_state_init(struct tj_steady_state *state);

/**
 * Finds out whether a series (throughputs, in the order of their calls) has become steady: whether the coefficient of
 * variation (sample standard deviation / mean) of the last window_size samples after the warm-up was below
 * cv_threshold for min_steady_samples samples running. A window with a NAN in it, or a mean of 0, is not.
 *
 * TJ_OK: *out_state is filled. TJ_ERR_INVALID_ARGUMENT: a sample or an option is negative or infinite; the message
 * names it, and *out_state is not written.
 */
tj_status tj_steady_state_detect(const double *samples,
                                 size_t sample_count,
                                 const struct tj_steady_options *options,
                                 struct tj_steady_state *out_state,
                                 tj_error *error);

/** Does what TJ_ENERGY_BATCH_INIT does, for languages without macros. NULL is ignored. */
void tj_energy_batch_init(struct tj_energy_batch *batch);

/**
 * Sums up requests that were served together within `seconds`: `tokens[i]` is how many the i-th had, prompt and output,
 * `energy_joules[i]` what it drew; NULL if no request was measured by itself. `total_energy_joules` is what was measured
 * around them all. If it was not (NAN or 0), the sum of the requests' own stands for it, and energy per token and per
 * request are over the requests that measured it. NAN, 0 and TJ_UNKNOWN in the lists mean "not measured", but for 0
 * tokens.
 *
 * TJ_OK: *out_batch is filled. TJ_ERR_INVALID_ARGUMENT: a figure is negative or infinite, or a count above 2^63; the
 * message names it, and *out_batch is not written.
 */
tj_status tj_energy_batch_compute(const double *energy_joules,
                                  const uint64_t *tokens,
                                  size_t request_count,
                                  double total_energy_joules,
                                  double seconds,
                                  struct tj_energy_batch *out_batch,
                                  tj_error *error);


#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* TOKENJOULE_H */
