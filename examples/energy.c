/* energy.c: what calls cost in joules, dollars and grams of CO2.
 *
 *   cc energy.c -o energy $(pkg-config --cflags --libs tokenjoule) && ./energy telemetry.db
 *
 * The machine's own counters are read where there are any; a wall meter of the program's own stands in, so that there is
 * something to see on every machine. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <tokenjoule.h>

static void check(tj_status status, const tj_error *error) {
  if (status == TJ_OK) return;
  fprintf(stderr, "%s: %s\n", tj_status_name(status), error->message);
  exit(EXIT_FAILURE);
}

/* The meter: 40 W, all the time. A real one would be asked over USB or the network. */
static int32_t read_meter(tj_energy_reading *reading, void *user_data) {
  struct timespec now;
  (void)user_data;
  clock_gettime(CLOCK_MONOTONIC, &now);
  reading->joules = 40 * ((double)now.tv_sec + (double)now.tv_nsec / 1e9);
  return 0;
}

/* The engine: twenty tokens, one every 10 ms. */
static int32_t generate(void *engine_data, const tj_generate_request *request, tj_call *call,
                        tj_generate_result *result) {
  (void)engine_data, (void)request;
  tj_call_prompt(call, 100, 0);
  for (int i = 0; i < 20; i++) {
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    tj_call_tokens(call, 1);
  }
  result->finish_reason = "stop";
  return 0;
}

static int32_t show(const tj_telemetry_record *record, int64_t id, void *user_data) {
  (void)id, (void)user_data;
  printf("%s: %.2f J, of it %.2f J on the prompt; %.3f J a token; %.9f USD; %s\n", record->model_id,
         record->energy_joules, record->prefill_energy_joules, record->energy_per_output_token_joules,
         record->cost_usd, record->metadata_json);
  return 0; /* go on */
}

int main(int argc, char **argv) {
  tj_error error;
  tj_store *store = NULL;
  check(tj_store_open(argc > 1 ? argv[1] : ":memory:", NULL, &store, &error), &error);
  check(tj_store_subscribe(store, &error), &error);

  tj_energy_custom meter = TJ_ENERGY_CUSTOM_INIT;
  meter.name = "wall meter";
  meter.read = read_meter;
  uint64_t source;
  check(tj_energy_register_source(&meter, &source, &error), &error);
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  options.kinds = TJ_ENERGY_CUSTOM; /* 0: whatever the machine has, too */
  check(tj_energy_start(&options, &error), &error);

  tj_local_cost local = TJ_LOCAL_COST_INIT;
  local.electricity_usd_per_kwh = 0.30;
  local.carbon_grams_per_kwh = 380;
  check(tj_cost_set_local(&local, &error), &error); /* for models that have no price of their own */

  tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
  check(tj_energy_sources(NULL, &sources, &error), &error); /* NULL: everything that could be read here */
  for (size_t i = 0; i < sources.source_count; i++) {
    const tj_energy_source *it = &sources.sources[i];
    printf("%s %s: %s\n", it->kind, it->name, it->is_available ? "can be read" : it->reason);
  }
  tj_energy_source_list_free(&sources);

  tj_engine engine = TJ_ENGINE_INIT;
  engine.engine_id = "energy";
  engine.generate = generate;
  for (int i = 0; i < 2; i++) {
    tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
    request.model = i == 0 ? "first" : "second";
    tj_generate_result result = TJ_GENERATE_RESULT_INIT;
    check(tj_instrumented_generate(&engine, &request, &result, &error), &error);
  }

  check(tj_store_flush(store, &error), &error); /* the joules of the last call are known now */
  check(tj_records_each(store, NULL, show, NULL, &error), &error);
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  check(tj_energy_read(&totals, &error), &error);
  printf("the meter moved by %.3f J: %.3f J of calls, %.3f J of nobody\n", totals.counter_joules,
         totals.attributed_joules, totals.unattributed_joules);
  tj_energy_totals_free(&totals);
  check(tj_energy_stop(&error), &error);
  check(tj_store_close(store, &error), &error);
  return 0;
}
