/*
 * A driver library of NVIDIA's without a driver: the NVML calls that the energy source uses, answered from a script.
 *
 * The script lies beside this library, as LIBRARY.script, and is read at each call: lines of "KEY VALUE". A value "!N" is
 * the NVML error N, and so is a key that is not there (NVML_ERROR_NOT_SUPPORTED). What was begun and ended goes to
 * LIBRARY.log.
 *
 *   init 0                   what nvmlInit_v2 returns
 *   count 2
 *   0.name NVIDIA Test       of GPU 0: name, uuid, energy (mJ), power (mW), instant (mW), busy (%), memory (bytes),
 *   0.energy 123000          temperature (degrees Celsius), handle ("!15": lost)
 *   MIG-1 0                  an instance of GPU 0, by its UUID
 *
 * WITHOUT_SHUTDOWN, WITHOUT_COUNT, WITHOUT_ENERGY: a library that lacks the function.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUCCESS 0
#define INVALID_ARGUMENT 2
#define NOT_SUPPORTED 3
#define NOT_FOUND 6

typedef int result;
typedef struct device *device; /* the number of the GPU + 1; of an instance's, + 101 */

static const char *beside(const char *ending) {
  static _Thread_local char path[4096];
  Dl_info it;
  path[0] = '\0';
  if (dladdr((void *)(uintptr_t)&beside, &it) != 0) {
    snprintf(path, sizeof path, "%s.%s", it.dli_fname, ending);
  }
  return path;
}

static void note(const char *what) {
  FILE *log = fopen(beside("log"), "a");
  if (log != NULL) {
    fprintf(log, "%s\n", what);
    fclose(log);
  }
}

/* The value of a key in the script. */
static result text(const char *key, char *value, size_t size) {
  char line[512];
  size_t length = strlen(key);
  result found = NOT_SUPPORTED;
  FILE *script = fopen(beside("script"), "r");
  if (script == NULL) {
    return NOT_SUPPORTED;
  }
  while (fgets(line, sizeof line, script) != NULL) {
    if (strncmp(line, key, length) == 0 && line[length] == ' ') {
      line[strcspn(line, "\n")] = '\0';
      if (line[length + 1] == '!') {
        found = atoi(line + length + 2);
      } else {
        snprintf(value, size, "%s", line + length + 1);
        found = SUCCESS;
      }
      break;
    }
  }
  fclose(script);
  return found;
}

static result number(const char *key, unsigned long long *value) {
  char it[64];
  result found = text(key, it, sizeof it);
  if (found == SUCCESS) {
    *value = strtoull(it, NULL, 10);
  }
  return found;
}

static result text_of(device gpu, const char *what, char *value, size_t size) {
  char key[64];
  snprintf(key, sizeof key, "%d.%s", (int)(intptr_t)gpu - 1, what);
  return text(key, value, size);
}

static result number_of(device gpu, const char *what, unsigned long long *value) {
  char key[64];
  snprintf(key, sizeof key, "%d.%s", (int)(intptr_t)gpu - 1, what);
  return number(key, value);
}

static result small_number_of(device gpu, const char *what, unsigned *value) {
  unsigned long long it = 0;
  result found = number_of(gpu, what, &it);
  if (found == SUCCESS) {
    *value = (unsigned)it;
  }
  return found;
}

result nvmlInit_v2(void) {
  char value[64];
  result found = text("init", value, sizeof value);
  note("init");
  return found == NOT_SUPPORTED ? SUCCESS : found;
}

#ifndef WITHOUT_SHUTDOWN
result nvmlShutdown(void) {
  note("shutdown");
  return SUCCESS;
}
#endif

result nvmlSystemGetDriverVersion(char *version, unsigned length) { return text("driver", version, length); }

#ifndef WITHOUT_COUNT
result nvmlDeviceGetCount_v2(unsigned *count) {
  unsigned long long it = 0;
  result found = number("count", &it);
  *count = (unsigned)it;
  return found;
}
#endif

result nvmlDeviceGetHandleByIndex_v2(unsigned index, device *gpu) {
  char value[64];
  result found;
  *gpu = (device)(intptr_t)(index + 1);
  found = text_of(*gpu, "handle", value, sizeof value);
  return found == NOT_SUPPORTED ? SUCCESS : found;
}

result nvmlDeviceGetHandleByUUID(const char *uuid, device *gpu) {
  unsigned long long index = 0;
  result found = number(uuid, &index);
  *gpu = (device)(intptr_t)(index + 101);
  return found == NOT_SUPPORTED ? NOT_FOUND : found;
}

result nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device instance, device *gpu) {
  if ((intptr_t)instance <= 100) {
    return INVALID_ARGUMENT;
  }
  *gpu = (device)((intptr_t)instance - 100);
  return SUCCESS;
}

result nvmlDeviceGetName(device gpu, char *name, unsigned length) { return text_of(gpu, "name", name, length); }

result nvmlDeviceGetUUID(device gpu, char *uuid, unsigned length) { return text_of(gpu, "uuid", uuid, length); }

#ifndef WITHOUT_ENERGY
result nvmlDeviceGetTotalEnergyConsumption(device gpu, unsigned long long *millijoules) {
  return number_of(gpu, "energy", millijoules);
}
#endif

result nvmlDeviceGetPowerUsage(device gpu, unsigned *milliwatts) { return small_number_of(gpu, "power", milliwatts); }

typedef struct field {
  unsigned id, scope;
  long long timestamp, latency;
  unsigned type; /* 1: unsigned int */
  result status;
  union {
    double real;
    unsigned small;
    unsigned long long large;
  } value;
} field;

result nvmlDeviceGetFieldValues(device gpu, int count, field *fields) {
  int i;
  for (i = 0; i < count; i++) {
    fields[i].type = 1;
    fields[i].status = fields[i].id == 186 ? small_number_of(gpu, "instant", &fields[i].value.small) : NOT_SUPPORTED;
  }
  return SUCCESS;
}

result nvmlDeviceGetUtilizationRates(device gpu, unsigned rates[2]) { return small_number_of(gpu, "busy", &rates[0]); }

typedef struct memory {
  unsigned version;
  unsigned long long total, reserved, free, used;
} memory;

result nvmlDeviceGetMemoryInfo_v2(device gpu, memory *info) { return number_of(gpu, "memory", &info->used); }

result nvmlDeviceGetTemperature(device gpu, unsigned sensor, unsigned *celsius) {
  return sensor == 0 ? small_number_of(gpu, "temperature", celsius) : INVALID_ARGUMENT;
}
