/* os_windows.c - the operating system, for Windows 8 and later. */
#include "os.h"

#include <stdio.h>

int32_t isthmus_os_processors(void) {
  const DWORD count = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
  return count > 0 ? (int32_t)count : 1;
}

/* Of the cores, one processor each: hyperthreads share the arithmetic units. */
int32_t isthmus_os_cores(int32_t cap) {
  DWORD bytes = 0;
  int32_t cores = 0;
  GetLogicalProcessorInformation(NULL, &bytes);
  SYSTEM_LOGICAL_PROCESSOR_INFORMATION *all = bytes ? HeapAlloc(GetProcessHeap(), 0, bytes) : NULL;
  if (all && GetLogicalProcessorInformation(all, &bytes))
    for (DWORD i = 0; i < bytes / sizeof *all; i++) cores += all[i].Relationship == RelationProcessorCore;
  if (all) HeapFree(GetProcessHeap(), 0, all);
  if (cores < 1) cores = isthmus_os_processors();
  return cores < cap ? cores : cap;
}

uint64_t isthmus_os_nanoseconds(void) {
  LARGE_INTEGER now, each_second;
  QueryPerformanceCounter(&now);
  QueryPerformanceFrequency(&each_second);
  const uint64_t ticks = (uint64_t)now.QuadPart, rate = (uint64_t)each_second.QuadPart;
  return ticks / rate * 1000000000u + ticks % rate * 1000000000u / rate;
}

void isthmus_os_yield(void) { SwitchToThread(); }

int32_t isthmus_os_processor(void) { return -1; }

void isthmus_os_move_away(const int32_t *taken, int32_t count) { (void)taken, (void)count; }

static HANDLE open_file(const char *path) {
  wchar_t wide[4096];
  if (!MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, sizeof wide / sizeof *wide))
    return INVALID_HANDLE_VALUE;
  return CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL, OPEN_EXISTING, 0, NULL);
}

const uint8_t *isthmus_os_map_file(const char *path, int64_t bytes, char *problem, size_t problem_size) {
  LARGE_INTEGER size = {.QuadPart = -1};
  const uint8_t *data = NULL;
  HANDLE file = open_file(path), mapping = NULL;
  if (file == INVALID_HANDLE_VALUE || !GetFileSizeEx(file, &size)) {
    snprintf(problem, problem_size, "cannot read the weights '%s': error %lu", path, (unsigned long)GetLastError());
  } else if (size.QuadPart != bytes) {
    snprintf(problem, problem_size, "the weights '%s' have %lld bytes, expected %lld", path, (long long)size.QuadPart,
             (long long)bytes);
  } else {
    mapping = CreateFileMappingW(file, NULL, PAGE_READONLY, 0, 0, NULL);
    if (mapping) data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    if (!data)
      snprintf(problem, problem_size, "cannot map the weights '%s': error %lu", path, (unsigned long)GetLastError());
  }
  if (mapping) CloseHandle(mapping); /* the view keeps it */
  if (file != INVALID_HANDLE_VALUE) CloseHandle(file);
  return data;
}

void isthmus_os_unmap_file(const uint8_t *data, int64_t bytes) {
  (void)bytes;
  if (data) UnmapViewOfFile(data);
}

uint8_t *isthmus_os_pages(int64_t bytes) {
  if (bytes > INT64_MAX / 2 || (uint64_t)bytes > SIZE_MAX / 2) return NULL;
  return VirtualAlloc(NULL, (size_t)bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

void isthmus_os_release_pages(uint8_t *data, int64_t bytes) {
  (void)bytes;
  if (data) VirtualFree(data, 0, MEM_RELEASE);
}

int isthmus_os_start(isthmus_os_thread *thread, isthmus_os_body body, void *argument) {
  *thread = CreateThread(NULL, 0, body, argument, 0, NULL);
  return *thread == NULL;
}

void isthmus_os_join(isthmus_os_thread thread) {
  WaitForSingleObject(thread, INFINITE);
  CloseHandle(thread);
}

int isthmus_os_bed_make(isthmus_os_bed *bed) {
  InitializeSRWLock(&bed->lock);
  InitializeConditionVariable(&bed->changed);
  return 0;
}

void isthmus_os_bed_free(isthmus_os_bed *bed) { (void)bed; }
void isthmus_os_lock(isthmus_os_bed *bed) { AcquireSRWLockExclusive(&bed->lock); }
void isthmus_os_unlock(isthmus_os_bed *bed) { ReleaseSRWLockExclusive(&bed->lock); }
void isthmus_os_sleep(isthmus_os_bed *bed) { SleepConditionVariableSRW(&bed->changed, &bed->lock, INFINITE, 0); }
void isthmus_os_wake_all(isthmus_os_bed *bed) { WakeAllConditionVariable(&bed->changed); }
