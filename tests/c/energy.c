/* Energy: what tj_energy_... promise. The devices are meters of this program's; machines are faked in tests/energy.rs. */
#include "check.h"

#include <pthread.h>

/* ---- A meter ---- */

typedef struct meter {
  double watts;     /* by this machine's clock */
  int fails;        /* what it returns */
  int says_nothing; /* and sets nothing */
  int reads, drops;
  void (*meanwhile)(void);
} meter;

static int32_t read_meter(tj_energy_reading *reading, void *user_data) {
  meter *it = (meter *)user_data;
  __atomic_fetch_add(&it->reads, 1, __ATOMIC_SEQ_CST);
  CHECK_EQ(it->drops, 0);
  CHECK_EQ(reading->struct_size, sizeof *reading);
  CHECK(isnan(reading->joules) && isnan(reading->watts) && isnan(reading->utilization_pct));
  CHECK(isnan(reading->memory_used_gb) && isnan(reading->temperature_c));
  if (it->meanwhile != NULL) {
    it->meanwhile();
  }
  if (!it->says_nothing) {
    reading->joules = it->watts * check_monotonic();
    reading->utilization_pct = 75.0;
    reading->memory_used_gb = 3.0;
    reading->temperature_c = 55.0;
  }
  return it->fails;
}

static void drop_meter(void *user_data) { ((meter *)user_data)->drops++; }

static uint64_t use(meter *it, const char *name, uint32_t part) {
  uint64_t source = 0;
  tj_energy_custom custom = TJ_ENERGY_CUSTOM_INIT;
  custom.name = name;
  custom.vendor = part == TJ_ENERGY_PART_GPU ? "nvidia" : NULL;
  custom.part = part;
  custom.read = read_meter;
  custom.user_data = it;
  custom.drop = drop_meter;
  CHECK_OK(tj_energy_register_source(&custom, &source, &error));
  CHECK(source != 0);
  return source;
}

static void start(uint32_t interval_ms) {
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  options.interval_ms = interval_ms;
  options.kinds = TJ_ENERGY_CUSTOM;
  CHECK_OK(tj_energy_start(&options, &error));
}

static void stop(void) { CHECK_OK(tj_energy_stop(&error)); }

static void let_go(uint64_t source) { CHECK_OK(tj_energy_unregister_source(source, &error)); }

static tj_call *begin(void) {
  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  tj_call *call = NULL;
  request.model = "m";
  CHECK_OK(tj_call_begin("e", &request, &call, &error));
  return call;
}

static void end(tj_call *call) {
  CHECK_OK(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error));
  tj_call_free(call);
}

/* ---- Records ---- */

static double joules_of_records;
static int records;

static int32_t add_record(const tj_telemetry_record *record, int64_t record_id, void *user_data) {
  (void)record_id;
  if (user_data != NULL) {
    *(tj_telemetry_record *)user_data = *record;
  }
  joules_of_records += isnan(record->energy_joules) ? 0 : record->energy_joules;
  records++;
  return 0;
}

/* All of them; the newest goes to `last`, without its strings. */
static void read_records(tj_store *store, tj_telemetry_record *last) {
  joules_of_records = records = 0;
  CHECK_OK(tj_records_each(store, NULL, add_record, last, &error));
}

static void a_call_gets_its_joules(void) {
  meter cpu = {40, 0, 0, 0, 0, NULL}, gpu = {160, 0, 0, 0, 0, NULL};
  uint64_t sources[2];
  tj_telemetry_record it = TJ_TELEMETRY_RECORD_INIT;
  tj_store *store = check_open(":memory:");
  tj_call *call;
  CHECK_OK(tj_store_subscribe(store, &error));
  sources[0] = use(&cpu, "cpu", TJ_ENERGY_PART_CPU), sources[1] = use(&gpu, "gpu", TJ_ENERGY_PART_GPU);
  start(5);
  call = begin();
  check_sleep_ms(20);
  tj_call_tokens(call, 1);
  check_sleep_ms(20);
  tj_call_tokens(call, 4);
  end(call);
  CHECK_OK(tj_store_flush(store, &error));
  read_records(store, &it);
  CHECK_EQ(records, 1);
  CHECK(it.energy_joules > 0);
  CHECK_NEAR(it.energy_joules, 200 * it.latency_seconds, 0.8);
  CHECK_NEAR(it.cpu_energy_joules + it.gpu_energy_joules, it.energy_joules, 1e-9);
  CHECK(isnan(it.dram_energy_joules));
  CHECK_NEAR(it.prefill_energy_joules + it.decode_energy_joules, it.energy_joules, 1e-9);
  CHECK_NEAR(it.power_watts, it.energy_joules / it.latency_seconds, 1e-9);
  CHECK_NEAR(it.tokens_per_joule, 5 / it.energy_joules, 1e-9);
  CHECK_NEAR(it.energy_per_output_token_joules, it.energy_joules / 5, 1e-9);
  CHECK_NEAR(it.throughput_per_watt, it.throughput_tok_per_sec / it.power_watts, 1e-9);
  CHECK_NUM(it.gpu_utilization_pct, 75.0);
  CHECK_NUM(it.gpu_memory_used_gb, 3.0);
  CHECK_NUM(it.gpu_temperature_c, 55.0);
  stop();
  let_go(sources[0]), let_go(sources[1]);
  CHECK(cpu.drops == 1 && gpu.drops == 1 && cpu.reads > 1);
  CHECK_OK(tj_store_close(store, &error));
}

static void *end_calls(void *unused) {
  int i;
  for (i = 0; i < (check_is_quick ? 3 : 20); i++) {
    tj_call *call = begin();
    check_sleep_ms(i % 4);
    end(call);
  }
  return unused;
}

static void what_calls_got_and_nobody_got_is_what_the_counters_moved(void) {
  meter cpu = {40, 0, 0, 0, 0, NULL};
  uint64_t source = use(&cpu, "cpu", TJ_ENERGY_PART_CPU);
  pthread_t threads[5];
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_store *store = check_open(check_path("conserved"));
  int i;
  CHECK_OK(tj_store_subscribe(store, &error));
  start(2);
  check_sleep_ms(10); /* nobody's */
  for (i = 0; i < 5; i++) {
    CHECK(pthread_create(&threads[i], NULL, end_calls, NULL) == 0);
  }
  for (i = 0; i < 5; i++) {
    pthread_join(threads[i], NULL);
  }
  stop();
  read_records(store, NULL);
  CHECK_EQ(records, check_is_quick ? 15 : 100);
  CHECK_OK(tj_energy_read(&totals, &error)); /* goes on answering */
  CHECK(totals.is_running == 0 && totals.calls == 0 && totals.device_count == 1);
  CHECK_NEAR(totals.attributed_joules, joules_of_records, 1e-9);
  CHECK_NEAR(totals.attributed_joules + totals.unattributed_joules + totals.idle_joules, totals.counter_joules, 1e-9);
  CHECK(totals.unattributed_joules > 0 && totals.reads > 1 && totals.cpu_seconds > 0 && totals.seconds > 0.01);
  CHECK_BETWEEN(check_wall_clock() - totals.since, totals.seconds - 0.1, totals.seconds + 60);
  CHECK_STR(totals.devices[0].kind, "custom");
  CHECK_STR(totals.devices[0].name, "cpu");
  CHECK_STR(totals.devices[0].vendor, "custom");
  CHECK_EQ(totals.devices[0].part, TJ_ENERGY_PART_CPU);
  CHECK_NUM(totals.devices[0].counter_joules, totals.counter_joules);
  CHECK_NEAR(totals.devices[0].power_watts, 40, 0.9);
  tj_energy_totals_free(&totals);
  let_go(source);
  CHECK_OK(tj_store_close(store, &error));
}

static void a_machine_without_any_of_it_says_why_and_is_none_the_worse(void) {
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_telemetry_record it = TJ_TELEMETRY_RECORD_INIT;
  tj_store *store = check_open(":memory:");
  static const char *const kinds[] = {"nvml", "hwmon", "rapl"};
  size_t i;
  options.nvml_path = "/nowhere/libnvidia-ml.so.1";
  options.powercap_root = options.drm_root = options.hwmon_root = "/nowhere";
  CHECK_OK(tj_energy_sources(&options, &sources, &error));
  CHECK_EQ(sources.source_count, 3);
  for (i = 0; i < sources.source_count && i < 3; i++) {
    const tj_energy_source *source = &sources.sources[i];
    CHECK_STR(source->kind, kinds[i]);
    CHECK(source->is_available == 0 && source->part == 0 && strstr(source->reason, "/nowhere") != NULL);
    CHECK(isnan(source->update_period_seconds) && isnan(source->wraps_at_joules));
  }
  tj_energy_source_list_free(&sources);

  CHECK_OK(tj_store_subscribe(store, &error));
  CHECK_OK(tj_energy_start(&options, &error));
  end(begin());
  read_records(store, &it);
  CHECK(records == 1 && isnan(it.energy_joules));
  CHECK_OK(tj_energy_sources(NULL, &sources, &error)); /* of what is being measured */
  CHECK_EQ(sources.source_count, 3);
  tj_energy_source_list_free(&sources);
  CHECK_OK(tj_energy_read(&totals, &error));
  CHECK(totals.is_running == 1 && totals.device_count == 0 && totals.devices == NULL);
  tj_energy_totals_free(&totals);
  stop();
  CHECK_OK(tj_store_close(store, &error));
}

static void starting_and_stopping_out_of_turn_is_refused(void) {
  meter cpu = {40, 0, 0, 0, 0, NULL};
  uint64_t source = use(&cpu, "cpu", TJ_ENERGY_PART_CPU), window = 0;
  tj_energy_window measured = TJ_ENERGY_WINDOW_INIT;
  tj_call *call;
  int i;
  CHECK_FAILS(tj_energy_stop(&error), TJ_ERR_CLOSED, "energy");
  CHECK_FAILS(tj_energy_window_begin(&window, &error), TJ_ERR_CLOSED, "energy");
  for (i = 0; i < 3; i++) {
    start(5);
    CHECK_FAILS(tj_energy_start(NULL, &error), TJ_ERR_BUSY, "energy");
    CHECK_OK(tj_energy_window_begin(&window, &error));
    call = begin();
    stop();
    CHECK_FAILS(tj_energy_stop(&error), TJ_ERR_CLOSED, "energy");
    CHECK_FAILS(tj_energy_window_end(window, &measured, &error), TJ_ERR_NOT_FOUND, "window");
    end(call); /* of a sampler that has stopped */
  }
  let_go(source);
  CHECK_FAILS(tj_energy_unregister_source(source, &error), TJ_ERR_NOT_FOUND, "source");
  CHECK_EQ(cpu.drops, 1);
}

static void a_window_measures_a_stretch(void) {
  meter cpu = {40, 0, 0, 0, 0, NULL}, gpu = {160, 0, 0, 0, 0, NULL};
  uint64_t sources[2], window = 0, other = 0;
  tj_energy_window it = TJ_ENERGY_WINDOW_INIT;
  sources[0] = use(&cpu, "cpu", TJ_ENERGY_PART_OTHER), sources[1] = use(&gpu, "gpu", TJ_ENERGY_PART_GPU);
  start(5);
  CHECK_OK(tj_energy_window_begin(&window, &error));
  CHECK_OK(tj_energy_window_begin(&other, &error));
  CHECK(window != 0 && other != 0 && window != other);
  check_sleep_ms(30);
  CHECK_OK(tj_energy_window_end(window, &it, &error));
  CHECK(it.seconds >= 0.03);
  CHECK_NEAR(it.energy_joules, 200 * it.seconds, 0.8);
  CHECK_NEAR(it.gpu_energy_joules + it.other_energy_joules, it.energy_joules, 1e-9);
  CHECK(isnan(it.cpu_energy_joules) && isnan(it.dram_energy_joules));
  CHECK_NEAR(it.mean_power_watts, it.energy_joules / it.seconds, 1e-9);
  CHECK(it.peak_power_watts > 0 && it.readings > 0);
  CHECK_NUM(it.mean_utilization_pct, 75.0), CHECK_NUM(it.peak_utilization_pct, 75.0);
  CHECK_NUM(it.mean_memory_used_gb, 3.0), CHECK_NUM(it.peak_memory_used_gb, 3.0);
  CHECK_NUM(it.mean_temperature_c, 55.0), CHECK_NUM(it.peak_temperature_c, 55.0);
  CHECK_FAILS(tj_energy_window_end(window, &it, &error), TJ_ERR_NOT_FOUND, "window");
  CHECK_OK(tj_energy_window_end(other, &it, &error));
  stop();
  let_go(sources[0]), let_go(sources[1]);
}

static void a_source_that_fails_or_says_nothing_is_unknown(void) {
  meter gpu = {160, 0, 0, 0, 0, NULL};
  uint64_t source = use(&gpu, "gpu", TJ_ENERGY_PART_GPU);
  tj_telemetry_record it = TJ_TELEMETRY_RECORD_INIT;
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_store *store = check_open(":memory:");
  CHECK_OK(tj_store_subscribe(store, &error));
  start(5);
  gpu.fails = 1;
  end(begin());
  CHECK_OK(tj_store_flush(store, &error)); /* waits a second for it */
  read_records(store, &it);
  CHECK(isnan(it.energy_joules) && isnan(it.gpu_energy_joules));
  gpu.fails = 0, gpu.says_nothing = 1;
  end(begin());
  stop();
  read_records(store, &it);
  CHECK(records == 2 && isnan(it.energy_joules));
  CHECK_OK(tj_energy_read(&totals, &error));
  CHECK(totals.devices[0].failed_reads > 1);
  tj_energy_totals_free(&totals);
  let_go(source);
  CHECK_OK(tj_store_close(store, &error));
}

static void ask_from_inside(void) {
  tj_error own;
  uint64_t number;
  tj_energy_window measured = TJ_ENERGY_WINDOW_INIT;
  tj_energy_totals totals = TJ_ENERGY_TOTALS_INIT;
  tj_energy_source_list sources = TJ_ENERGY_SOURCE_LIST_INIT;
  CHECK_EQ(tj_energy_stop(&own), TJ_ERR_BUSY);
  CHECK_EQ(tj_energy_start(NULL, &own), TJ_ERR_BUSY);
  CHECK_EQ(tj_energy_window_begin(&number, &own), TJ_ERR_BUSY);
  CHECK_EQ(tj_energy_window_end(1, &measured, &own), TJ_ERR_BUSY);
  CHECK_EQ(tj_energy_unregister_source(1, &own), TJ_ERR_BUSY);
  CHECK_EQ(tj_energy_sources(NULL, &sources, &own), TJ_ERR_BUSY);
  if (tj_energy_read(&totals, &own) == TJ_OK) {
    tj_energy_totals_free(&totals);
  }
}

static void a_callback_may_use_what_does_not_wait_for_it(void) {
  meter cpu = {40, 0, 0, 0, 0, ask_from_inside};
  uint64_t source = use(&cpu, "cpu", TJ_ENERGY_PART_CPU);
  start(2);
  while (__atomic_load_n(&cpu.reads, __ATOMIC_SEQ_CST) < 5) {
    check_sleep_ms(1);
  }
  stop();
  let_go(source);
}

static void drop_runs_also_when_registering_fails(void) {
  meter it = {0, 0, 0, 0, 0, NULL};
  uint64_t source;
  tj_energy_custom custom = TJ_ENERGY_CUSTOM_INIT;
  custom.user_data = &it;
  custom.drop = drop_meter;
  CHECK_FAILS(tj_energy_register_source(&custom, &source, &error), TJ_ERR_INVALID_ARGUMENT, "read");
  CHECK_EQ(it.drops, 1);
  custom.read = read_meter;
  CHECK_FAILS(tj_energy_register_source(&custom, &source, &error), TJ_ERR_INVALID_ARGUMENT, "name");
  CHECK_EQ(it.drops, 2);
  custom.drop = NULL; /* may be NULL */
  custom.name = "n";
  CHECK_OK(tj_energy_register_source(&custom, &source, &error));
  let_go(source);
  CHECK_EQ(it.drops, 2);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"a call gets its joules", a_call_gets_its_joules},
      {"what calls got and nobody got is what the counters moved",
       what_calls_got_and_nobody_got_is_what_the_counters_moved},
      {"a machine without any of it says why and is none the worse",
       a_machine_without_any_of_it_says_why_and_is_none_the_worse},
      {"starting and stopping out of turn is refused", starting_and_stopping_out_of_turn_is_refused},
      {"a window measures a stretch", a_window_measures_a_stretch},
      {"a source that fails or says nothing is unknown", a_source_that_fails_or_says_nothing_is_unknown},
      {"a callback may use what does not wait for it", a_callback_may_use_what_does_not_wait_for_it},
      {"drop runs also when registering fails", drop_runs_also_when_registering_fails},
  };
  return CHECK_MAIN(tests);
}
