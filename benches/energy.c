/* What measuring energy costs.
 *
 *     energy POWERCAP SECONDS
 *
 * The processor time of the sampler at its default interval, a call being in flight, with the devices in the folder. */
#include "bench.h"

static tj_energy_totals totals(void) {
  tj_energy_totals it = TJ_ENERGY_TOTALS_INIT;
  tj_error error;
  check(tj_energy_read(&it, &error), &error);
  tj_energy_totals_free(&it);
  return it;
}

int main(int argc, char **argv) {
  double seconds = argc == 3 ? atof(argv[2]) : 0;
  if (seconds <= 0) return fprintf(stderr, "usage: energy POWERCAP SECONDS\n"), 2;
  tj_error error;
  tj_energy_options options = TJ_ENERGY_OPTIONS_INIT;
  options.kinds = TJ_ENERGY_RAPL, options.powercap_root = argv[1];
  check(tj_energy_start(&options, &error), &error);
  tj_energy_totals all = TJ_ENERGY_TOTALS_INIT;
  check(tj_energy_read(&all, &error), &error);
  size_t devices = all.device_count;
  tj_energy_totals_free(&all);

  tj_generate_request request = TJ_GENERATE_REQUEST_INIT;
  request.model = "model-00";
  tj_call *call;
  check(tj_call_begin("bench", &request, &call, &error), &error);
  tj_energy_totals before = totals();
  for (double end = now_ns() + seconds * 1e9; now_ns() < end;) rest_ms(100);
  tj_energy_totals after = totals();
  check(tj_call_end(call, TJ_OUTCOME_OK, NULL, &error), &error);
  tj_call_free(call);
  check(tj_energy_stop(&error), &error);
  double reads = (double)(after.reads - before.reads), cpu = after.cpu_seconds - before.cpu_seconds;
  printf("{\"what\": \"sampler\", \"devices\": %zu, \"reads\": %.0f, \"interval_ms\": %.1f, \"read_us\": %.2f, "
         "\"share_pct\": %.6f}\n",
         devices, reads, after.interval_seconds * 1e3, cpu / reads * 1e6, cpu / (after.seconds - before.seconds) * 100);
  return 0;
}
