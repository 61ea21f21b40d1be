/* A QEMU plugin (API version 1, QEMU 7.2 and later) that counts the instructions of some modules:
 * the engine's, and apart from them libcrypto's.
 *
 * The program that is counted says what: by system calls that do not exist, so that nothing but this
 * plugin sees them. Instructions of libraries that everyone calls (memcpy) count for the module
 * that ran before them. The prototypes are declared here because Debian 12
 * ships no qemu-plugin.h. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
typedef void (*translated)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned int, void *);
typedef void (*called)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t);
typedef void (*ended)(qemu_plugin_id_t, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed,
                                                 enum qemu_plugin_cb_flags, void *);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ended, void *);

/* Numbers of system calls, also in emulated.py. */
enum { MODULE = 627500, COUNT = 627501 };
enum kind { OTHER, ENGINE, CRYPTO, ANYONES, UNKNOWN };

struct module {
    uint64_t from, to, kind;
};
struct block {
    uint64_t address, instructions;
    enum kind kind;
};

static struct module modules[256];
static size_t known;
static uint64_t totals[ANYONES];
static enum kind inside;
static int counting;
static char path[4096];

static enum kind kind_of(uint64_t address) {
    for (size_t at = 0; at < known; at++)
        if (address >= modules[at].from && address < modules[at].to)
            return modules[at].kind;
    return OTHER;
}

static void on_executed(unsigned int processor, void *data) {
    struct block *block = data;
    if (!counting)
        return;
    if (block->kind == UNKNOWN)
        block->kind = kind_of(block->address);
    if (block->kind != ANYONES)
        inside = block->kind;
    totals[inside] += block->instructions;
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *made) {
    struct block *block = malloc(sizeof(*block));
    block->address = qemu_plugin_tb_vaddr(made);
    block->instructions = qemu_plugin_tb_n_insns(made);
    block->kind = UNKNOWN;
    qemu_plugin_register_vcpu_tb_exec_cb(made, on_executed, QEMU_PLUGIN_CB_NO_REGS, block);
}

static void on_called(qemu_plugin_id_t id, unsigned int processor, int64_t number, uint64_t first,
                      uint64_t second, uint64_t third, uint64_t a4, uint64_t a5, uint64_t a6,
                      uint64_t a7, uint64_t a8) {
    if (number == MODULE && known < sizeof(modules) / sizeof(modules[0]))
        modules[known++] = (struct module){first, second, third};
    else if (number == COUNT)
        counting = first != 0, inside = OTHER;
}

static void on_ended(qemu_plugin_id_t id, void *data) {
    FILE *file = fopen(path, "w");
    if (!file)
        return;
    fprintf(file, "%" PRIu64 " %" PRIu64 "\n", totals[ENGINE], totals[CRYPTO]);
    fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void *info,
                                                               int count, char **arguments) {
    for (int at = 0; at < count; at++)
        if (!strncmp(arguments[at], "into=", 5))
            snprintf(path, sizeof(path), "%s", arguments[at] + 5);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_called);
    qemu_plugin_register_atexit_cb(id, on_ended, NULL);
    return 0;
}
