/*
 * Efficiency: the reference's formulas on numbers that were worked out by hand.
 */
#include "calls.h"

static const double impossible[] = {NAN, -1.0, INFINITY, -INFINITY};

/* ---- FLOPs, MFU, MBU ---- */

static void flops_are_twice_the_parameters_for_each_token(void) {
  CHECK_NUM(tj_flops_estimate(8e9, 100, 50), 2.4e12); /* 2 x 8e9 x 150 */
  CHECK_NUM(tj_flops_estimate(8e9, 0, 1), 16e9);
  CHECK_NUM(tj_flops_estimate(8e9, 0, 0), 0.0);
  CHECK_NUM(tj_flops_estimate(13e9, 1000, 0), 26e12); /* active parameters of a mixture of experts */
  /* Every token computed again for each that follows: 2 x P x (1 + 2 + ... + n). */
  CHECK_NUM(tj_flops_estimate_uncached(10.0, 2, 1), 2 * 10.0 * (1 + 2 + 3));
  CHECK_NUM(tj_flops_estimate_uncached(8e9, 100, 50), 1.812e14); /* 8e9 x 150 x 151 */
  CHECK_NUM(tj_flops_estimate_uncached(8e9, 0, 0), 0.0);
}

/* A 7B model in FP16 that makes 50 tokens a second on an A100: 700 GFLOP/s of 312 TFLOP/s, 700 GB/s of 2039 GB/s. */
static void utilisation_is_what_was_done_of_what_could_be(void) {
  double flops = tj_flops_estimate(7e9, 0, 50), bytes = tj_weight_bytes_estimate(7e9, 2.0, 50);
  CHECK_NUM(flops, 7e11);
  CHECK_NUM(bytes, 7e11);
  CHECK_NEAR(tj_mfu_compute(flops, 1.0, 312e12, 1), 0.22435897435897437, 1e-12);
  CHECK_NEAR(tj_mbu_compute(bytes, 1.0, 2039e9, 1), 34.33055419323198, 1e-12);
  CHECK_NEAR(tj_mfu_compute(flops, 0.5, 312e12, 4), 0.22435897435897437 / 2, 1e-12); /* in half the time, on four */
  CHECK_NEAR(tj_mbu_compute(bytes, 2.0, 2039e9, 2), 34.33055419323198 / 4, 1e-12);
  CHECK_NEAR(tj_weight_bytes_estimate(8e9, 0.5, 10), 4e10, 1e-12);
  /* The reference's compute_mfu: 1e15 FLOPs in 2 s on an H100 of 989 TFLOP/s. */
  CHECK_NEAR(tj_mfu_compute(1e15, 2.0, 989e12, 1), 50.556117290192114, 1e-12);
  CHECK_NUM(tj_mfu_compute(0, 1.0, 1e12, 1), 0.0);
  CHECK_NUM(tj_ipj_compute(0.8, 400.0), 0.002);
  CHECK_NUM(tj_ipj_compute(0.0, 400.0), 0.0);
}

static void what_is_unknown_or_cannot_be_gives_nan(void) {
  const double *bad;
  for (EACH(bad, impossible)) {
    CHECK_NUM(tj_flops_estimate(*bad, 1, 1), NAN), CHECK_NUM(tj_flops_estimate_uncached(*bad, 1, 1), NAN);
    CHECK_NUM(tj_weight_bytes_estimate(*bad, 1, 1), NAN), CHECK_NUM(tj_weight_bytes_estimate(1, *bad, 1), NAN);
    CHECK_NUM(tj_mfu_compute(*bad, 1, 1, 1), NAN), CHECK_NUM(tj_mbu_compute(*bad, 1, 1, 1), NAN);
    CHECK_NUM(tj_mfu_compute(1, *bad, 1, 1), NAN), CHECK_NUM(tj_mbu_compute(1, *bad, 1, 1), NAN);
    CHECK_NUM(tj_mfu_compute(1, 1, *bad, 1), NAN), CHECK_NUM(tj_mbu_compute(1, 1, *bad, 1), NAN);
    CHECK_NUM(tj_ipj_compute(*bad, 1), NAN), CHECK_NUM(tj_ipj_compute(1, *bad), NAN);
  }
  CHECK_NUM(tj_flops_estimate(0, 1, 1), NAN); /* no model has no parameters */
  CHECK_NUM(tj_flops_estimate(1, TJ_UNKNOWN, 1), NAN), CHECK_NUM(tj_flops_estimate(1, 1, TJ_UNKNOWN), NAN);
  CHECK_NUM(tj_flops_estimate_uncached(1, TJ_UNKNOWN, 1), NAN);
  CHECK_NUM(tj_weight_bytes_estimate(1, 1, TJ_UNKNOWN), NAN);
  CHECK_NUM(tj_mfu_compute(1, 0, 1, 1), NAN), CHECK_NUM(tj_mfu_compute(1, 1, 0, 1), NAN);
  CHECK_NUM(tj_mfu_compute(1, 1, 1, 0), NAN), CHECK_NUM(tj_mbu_compute(1, 1, 1, 0), NAN);
  CHECK_NUM(tj_ipj_compute(0.5, 0), NAN);
  /* Never infinite. */
  CHECK_NUM(tj_flops_estimate(1e308, 100, 100), NAN), CHECK_NUM(tj_flops_estimate_uncached(1e300, 1u << 30, 0), NAN);
  CHECK_NUM(tj_weight_bytes_estimate(1e308, 1e308, 1), NAN);
  CHECK_NUM(tj_mfu_compute(1e308, 1e-308, 1, 1), NAN), CHECK_NUM(tj_ipj_compute(1.0, 1e-320), NAN);
}

/* ---- GPUs ---- */

static tj_gpu_peak peak_of(const char *name) {
  tj_gpu_peak peak = TJ_GPU_PEAK_INIT;
  CHECK_OK(tj_gpu_peak_find(name, &peak, &error));
  return peak;
}

static void a_gpu_is_known_by_its_drivers_name(void) {
  static const struct {
    const char *asked, *found;
    double bf16, memory;
  } known[] = {
      {"NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM", 989.5e12, 3350e9},
      {"NVIDIA H100 PCIe", "NVIDIA H100 PCIe", 756.5e12, 2000e9},
      {"NVIDIA H100 NVL", "NVIDIA H100 NVL", 835.5e12, 3900e9},
      {"H100", "NVIDIA H100 SXM", 989.5e12, 3350e9},
      {"NVIDIA H200", "NVIDIA H200 SXM", 989.5e12, 4800e9},
      {"NVIDIA B200", "NVIDIA B200", 2250e12, 7700e9},
      {"NVIDIA GB200", "NVIDIA GB200", 2500e12, 8000e9},
      {"NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB SXM", 312e12, 2039e9},
      {"NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe", 312e12, 1935e9},
      {"NVIDIA A100-PCIE-40GB", "NVIDIA A100 40GB", 312e12, 1555e9},
      {"A100-SXM4-40GB", "NVIDIA A100 40GB", 312e12, 1555e9},
      {"NVIDIA A10", "NVIDIA A10", 125e12, 600e9},
      {"NVIDIA L40S", "NVIDIA L40S", 362.05e12, 864e9},
      {"NVIDIA L40", "NVIDIA L40", 181.05e12, 864e9},
      {"NVIDIA L4", "NVIDIA L4", 121e12, 300e9},
      {"Tesla T4", "NVIDIA T4", NAN, 300e9},
      {"Tesla V100-SXM2-16GB", "NVIDIA V100 SXM2", NAN, 900e9},
      {"Tesla V100S-PCIE-32GB", "NVIDIA V100S PCIe", NAN, 1134e9},
      {"NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090", 165.2e12, 1008e9},
      {"rtx 3090", "NVIDIA GeForce RTX 3090", 71e12, 936e9},
      {"AMD Instinct MI300X", "AMD Instinct MI300X", 1307.4e12, 5300e9},
      {"Apple M3 Ultra", "Apple M3 Ultra", NAN, 819e9},
  };
  size_t i;
  for (i = 0; i < sizeof known / sizeof *known; i++) {
    tj_gpu_peak peak = peak_of(known[i].asked);
    CHECK_STR(peak.name, known[i].found);
    CHECK_NEAR(peak.bf16_flops, known[i].bf16, 1e-12);
    CHECK_NEAR(peak.memory_bytes_per_second, known[i].memory, 1e-12);
    CHECK(peak.source != NULL && *peak.source != 0);
  }
  CHECK_NEAR(peak_of("Tesla T4").fp16_flops, 65e12, 1e-12);
  CHECK_NEAR(peak_of("B200").fp4_flops, 9e15, 1e-12);
  CHECK_NUM(peak_of("H100").fp4_flops, NAN);
}

/* Another GPU, a part of one, or none: better no figure than a wrong one. */
static void a_gpu_that_is_not_known_is_not_guessed(void) {
  static const char *const names[] = {
      "", "GPU", "NVIDIA", "NVIDIA H20", "NVIDIA H1000", "NVIDIA A100X", "NVIDIA A10G", "XL4",
      "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4080 SUPER",
      "NVIDIA GeForce RTX 3090 Ti", "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "AMD Instinct MI300X VF", "Apple M3",
      "Apple M3 Max", "Max", "\xC3\xA9"};
  const char *const *name;
  tj_gpu_peak peak = TJ_GPU_PEAK_INIT;
  for (EACH(name, names)) {
    CHECK_FAILS(tj_gpu_peak_find(*name, &peak, &error), TJ_ERR_NOT_FOUND, "gpu_name");
  }
}

/* ---- Phases ---- */

/* 2 s: 0.5 s for 1000 prompt tokens at 300 W, 1.5 s for 60 output tokens at 200 W. */
static void a_record_is_split_at_its_first_token(void) {
  tj_telemetry_record record = call_of("m", "e", 0);
  tj_phases phases = TJ_PHASES_INIT;
  int i;
  record.prompt_tokens = 1000, record.completion_tokens = 60, record.latency_seconds = 2.0, record.ttft = 0.5;
  record.energy_joules = 450, record.prefill_energy_joules = 150, record.decode_energy_joules = 300;
  CHECK_OK(tj_phases_split(&record, &phases, &error));
  CHECK_NUM(phases.prefill.energy_joules, 150), CHECK_NUM(phases.decode.energy_joules, 300);
  CHECK_NUM(phases.prefill.seconds, 0.5), CHECK_NUM(phases.decode.seconds, 1.5);
  CHECK_NUM(phases.prefill.mean_power_watts, 300), CHECK_NUM(phases.decode.mean_power_watts, 200);
  CHECK_NUM(phases.prefill.energy_per_token_joules, 0.15), CHECK_NUM(phases.decode.energy_per_token_joules, 5);
  CHECK_EQ(phases.prefill.tokens, 1000), CHECK_EQ(phases.decode.tokens, 60);
  for (i = 0; i < 4; i++) {
    CHECK(phases.prefill.reserved[i] == 0 && phases.decode.reserved[i] == 0);
  }

  record.prefill_latency_seconds = 0.25, record.decode_latency_seconds = 1.0; /* what the engine says wins */
  CHECK_OK(tj_phases_split(&record, &phases, &error));
  CHECK_NUM(phases.prefill.mean_power_watts, 600), CHECK_NUM(phases.decode.mean_power_watts, 300);

  record.prefill_energy_joules = NAN, record.decode_energy_joules = 0; /* not split by time */
  record.completion_tokens = TJ_UNKNOWN;
  CHECK_OK(tj_phases_split(&record, &phases, &error));
  CHECK_NUM(phases.prefill.energy_joules, NAN), CHECK_NUM(phases.decode.energy_joules, NAN);
  CHECK_NUM(phases.prefill.mean_power_watts, NAN), CHECK_NUM(phases.decode.energy_per_token_joules, NAN);
  CHECK_NUM(phases.prefill.seconds, 0.25), CHECK_EQ(phases.decode.tokens, TJ_UNKNOWN);

  record = call_of("m", "e", 0);
  record.ttft = 3, record.latency_seconds = 2, record.decode_energy_joules = 5; /* a contradiction */
  CHECK_OK(tj_phases_split(&record, &phases, &error));
  CHECK_NUM(phases.decode.seconds, NAN), CHECK_NUM(phases.decode.mean_power_watts, NAN);
  CHECK_NUM(phases.decode.energy_per_token_joules, NAN); /* 0 tokens */
}

/* ---- Steady state ---- */

static tj_steady_state state_of(const double *samples, size_t count, const tj_steady_options *options) {
  tj_steady_state state = TJ_STEADY_STATE_INIT;
  CHECK_OK(tj_steady_state_detect(samples, count, options, &state, &error));
  CHECK_EQ(state.total_samples, count), CHECK_EQ(state.reserved, 0);
  CHECK_EQ(state.warmup_samples + state.steady_state_samples, count);
  CHECK_EQ(state.steady_state_reached, state.reached_at != TJ_UNKNOWN);
  return state;
}

/* As the reference does it: 5 of warm-up, windows of 5, below 0.05 three times running. */
static void a_series_becomes_steady(void) {
  /* The windows end at the samples 9 to 13; the first holds 80: mean 96, deviation 8.94, variation 0.093. */
  static const double samples[] = {10, 20, 30, 40, 50, 80, 100, 100, 100, 100, 100, 102, 100, 98};
  const size_t count = sizeof samples / sizeof *samples;
  tj_steady_state state = state_of(samples, 9, NULL);
  CHECK_EQ(state.warmup_samples, 5), CHECK_EQ(state.steady_state_samples, 4);
  CHECK_NUM(state.coefficient_of_variation, NAN), CHECK_NUM(state.mean, NAN); /* no window yet */
  CHECK_EQ(state.reached_at, TJ_UNKNOWN);
  state = state_of(samples, 10, NULL);
  CHECK_NUM(state.mean, 96), CHECK_NEAR(state.coefficient_of_variation, sqrt(80.0) / 96, 1e-12);
  CHECK_EQ(state.reached_at, TJ_UNKNOWN);
  state = state_of(samples, 12, NULL); /* stable twice */
  CHECK_EQ(state.reached_at, TJ_UNKNOWN), CHECK_EQ(state.steady_state_samples, 7);
  state = state_of(samples, 13, NULL); /* three times */
  CHECK_EQ(state.reached_at, 12);
  state = state_of(samples, count, NULL);
  CHECK_EQ(state.reached_at, 12);
  CHECK_NUM(state.mean, 100), CHECK_NEAR(state.coefficient_of_variation, sqrt(2.0) / 100, 1e-12);
  CHECK_EQ(state_of(samples, 3, NULL).warmup_samples, 3);
  CHECK_EQ(state_of(NULL, 0, NULL).total_samples, 0);
}

static void steadiness_can_be_defined(void) {
  static const double flat[] = {7, 7, 7, 7}, swinging[] = {10, 12, 10, 12, 10, 12};
  static const double broken[] = {7, 7, NAN, 7, 7, 7}, still[] = {0, 0, 0, 0}, later[] = {7, 7, 7, 100, 1, 100};
  tj_steady_options options = TJ_STEADY_OPTIONS_INIT;
  CHECK_EQ(state_of(flat, 4, &options).reached_at, TJ_UNKNOWN); /* warm-up */
  options.no_warmup = 1, options.window_size = 2;
  CHECK_EQ(state_of(flat, 4, &options).reached_at, 3);
  CHECK_NUM(state_of(flat, 4, &options).coefficient_of_variation, 0.0);
  options.min_steady_samples = 1;
  CHECK_EQ(state_of(flat, 4, &options).reached_at, 1);
  /* 10 and 12: deviation sqrt(2), mean 11: 0.1286. */
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, TJ_UNKNOWN);
  CHECK_NEAR(state_of(swinging, 6, &options).coefficient_of_variation, sqrt(2.0) / 11, 1e-12);
  options.cv_threshold = 0.1285;
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, TJ_UNKNOWN);
  options.cv_threshold = 0.1286;
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, 1);
  options.cv_threshold = 0, options.min_steady_samples = 2;
  CHECK_EQ(state_of(broken, 6, &options).reached_at, 5); /* what was not measured breaks a run */
  CHECK_NUM(state_of(broken, 3, &options).coefficient_of_variation, NAN);
  CHECK_EQ(state_of(still, 4, &options).reached_at, TJ_UNKNOWN); /* nothing is not steady */
  CHECK_EQ(state_of(later, 6, &options).reached_at, 2); /* stays so */
  options.window_size = 1; /* one sample does not vary */
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, 1);
  options.no_warmup = 0, options.warmup_samples = 3;
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, 4);
  options.window_size = UINT32_MAX, options.min_steady_samples = UINT32_MAX, options.warmup_samples = UINT32_MAX;
  CHECK_EQ(state_of(swinging, 6, &options).reached_at, TJ_UNKNOWN);
  {
    static const double huge[] = {1e308, 1e308, 1e308};
    tj_steady_options pair = TJ_STEADY_OPTIONS_INIT;
    pair.no_warmup = 1, pair.window_size = 2;
    CHECK_NUM(state_of(huge, 3, &pair).mean, NAN); /* never infinite */
  }
}

/* ---- Batches ---- */

static tj_energy_batch batch_of(const double *energies, const uint64_t *tokens, size_t count, double total,
                                double seconds) {
  tj_energy_batch batch = TJ_ENERGY_BATCH_INIT;
  CHECK_OK(tj_energy_batch_compute(energies, tokens, count, total, seconds, &batch, &error));
  CHECK_EQ(batch.total_requests, count);
  return batch;
}

static void a_batch_is_measured_as_a_whole(void) {
  static const uint64_t tokens[] = {100, 200, 300};
  static const double energies[] = {10, 20, NAN};
  tj_energy_batch batch = batch_of(NULL, tokens, 3, 120, 4);
  CHECK_EQ(batch.total_tokens, 600), CHECK_EQ(batch.measured_requests, 0);
  CHECK_NUM(batch.total_energy_joules, 120), CHECK_NUM(batch.energy_per_token_joules, 0.2);
  CHECK_NUM(batch.energy_per_request_joules, 40), CHECK_NUM(batch.mean_power_watts, 30);
  CHECK_NUM(batch.mean_throughput_tok_per_sec, 150);
  batch = batch_of(energies, tokens, 3, 120, 4); /* comes before the requests' own */
  CHECK_NUM(batch.total_energy_joules, 120), CHECK_NUM(batch.energy_per_request_joules, 40);
  CHECK_EQ(batch.measured_requests, 2);
}

static void a_batch_is_the_sum_of_its_requests(void) {
  static const uint64_t tokens[] = {100, 200, 300}, uncounted[] = {100, TJ_UNKNOWN, 0};
  static const double energies[] = {10, 20, 30}, gaps[] = {10, NAN, 0}, none[] = {NAN, 0, NAN};
  tj_energy_batch batch = batch_of(energies, tokens, 3, NAN, 4);
  CHECK_NUM(batch.total_energy_joules, 60), CHECK_NUM(batch.energy_per_token_joules, 0.1);
  CHECK_NUM(batch.energy_per_request_joules, 20), CHECK_NUM(batch.mean_power_watts, 15);
  CHECK_EQ(batch.measured_requests, 3);
  batch = batch_of(gaps, tokens, 3, 0, 4); /* over those that measured it */
  CHECK_NUM(batch.total_energy_joules, 10), CHECK_NUM(batch.energy_per_token_joules, 0.1);
  CHECK_NUM(batch.energy_per_request_joules, 10), CHECK_EQ(batch.measured_requests, 1);
  CHECK_NUM(batch.mean_throughput_tok_per_sec, 150); /* of all */
  batch = batch_of(gaps, uncounted, 3, NAN, 4);
  CHECK_EQ(batch.total_tokens, 100), CHECK_NUM(batch.energy_per_token_joules, 0.1);
  CHECK_NUM(batch.mean_throughput_tok_per_sec, NAN);
  batch = batch_of(energies, uncounted, 3, NAN, 4);
  CHECK_NUM(batch.energy_per_token_joules, NAN), CHECK_NUM(batch.energy_per_request_joules, 20);
  batch = batch_of(none, tokens, 3, NAN, NAN);
  CHECK_NUM(batch.total_energy_joules, NAN), CHECK_NUM(batch.energy_per_token_joules, NAN);
  CHECK_NUM(batch.energy_per_request_joules, NAN), CHECK_NUM(batch.mean_power_watts, NAN);
  CHECK_NUM(batch.mean_throughput_tok_per_sec, NAN);
  batch = batch_of(NULL, NULL, 0, 5, 2);
  CHECK_NUM(batch.total_energy_joules, 5), CHECK_NUM(batch.energy_per_token_joules, NAN);
  CHECK_NUM(batch.energy_per_request_joules, NAN), CHECK_NUM(batch.mean_power_watts, 2.5);
  CHECK_NUM(batch.mean_throughput_tok_per_sec, 0.0);
}

int main(int argc, char **argv) {
  static const check_test tests[] = {
      {"FLOPs are twice the parameters for each token", flops_are_twice_the_parameters_for_each_token},
      {"utilisation is what was done of what could be", utilisation_is_what_was_done_of_what_could_be},
      {"what is unknown or cannot be gives NAN", what_is_unknown_or_cannot_be_gives_nan},
      {"a GPU is known by its driver's name", a_gpu_is_known_by_its_drivers_name},
      {"a GPU that is not known is not guessed", a_gpu_that_is_not_known_is_not_guessed},
      {"a record is split at its first token", a_record_is_split_at_its_first_token},
      {"a series becomes steady", a_series_becomes_steady},
      {"steadiness can be defined", steadiness_can_be_defined},
      {"a batch is measured as a whole", a_batch_is_measured_as_a_whole},
      {"a batch is the sum of its requests", a_batch_is_the_sum_of_its_requests},
  };
  return CHECK_MAIN(tests);
}
