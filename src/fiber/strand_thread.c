/* SPDX-License-Identifier: Apache-2.0 */
/* Strands as threads: for valgrind, rr, gdb and whatever else wants one thread per stack.
 *
 * A baton goes back and forth: the thread that enters a strand sleeps until the strand leaves,
 * so that of a loop's threads exactly one runs at any time, and everything happens in the same
 * order as with stacks. The loop is bound to each of its threads; other thread-local state (a
 * module's own `_Thread_local`) is a fiber's rather than the loop's here, so it may cache, but
 * must not carry anything from one fiber to another: that is what loop_slot is for. */
#include <pthread.h>
#include <semaphore.h>

#include "base/mem.h"
#include "fiber/loop_private.h"
#include "fiber/strand.h"

#define STACK_BYTES (256u * 1024)

struct strand {
    pthread_t thread;
    sem_t go, back;
    bool is_ending;
    struct loop *loop;
    void (*run)(void *record);
    size_t bytes; /* with the record */
    max_align_t record[];
};

static void wait_for(sem_t *baton)
{
    while (sem_wait(baton) < 0) /* a signal */
        ;
}

static void *thread_main(void *arg)
{
    struct strand *strand = arg;

    loop_bind(strand->loop);
    for (;;) {
        wait_for(&strand->go);
        if (strand->is_ending)
            return NULL;
        strand->run(strand->record);
        sem_post(&strand->back);
    }
}

void strand_enter(struct strand *strand)
{
    sem_post(&strand->go);
    wait_for(&strand->back);
}

void strand_leave(struct strand *strand)
{
    sem_post(&strand->back);
    wait_for(&strand->go);
}

static bool start_thread(struct strand *strand)
{
    pthread_attr_t attr;

    if (pthread_attr_init(&attr) != 0)
        return false;
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    int rc = pthread_create(&strand->thread, &attr, thread_main, strand);
    pthread_attr_destroy(&attr);
    return rc == 0;
}

struct strand *strand_new(void (*run)(void *record), size_t record_bytes, void **record)
{
    size_t bytes = sizeof(struct strand) + record_bytes;
    struct strand *strand = mem_alloc_zero(MEM_FIBER, bytes);

    if (!strand)
        return NULL;
    strand->bytes = bytes;
    *record = strand->record;
    sem_init(&strand->go, 0, 0);
    sem_init(&strand->back, 0, 0);
    strand->loop = loop_self();
    strand->run = run;
    if (!start_thread(strand)) {
        mem_free(MEM_FIBER, strand, bytes);
        return NULL;
    }
    mem_account(MEM_FIBER, STACK_BYTES);
    return strand;
}

void strand_free(struct strand *strand)
{
    strand->is_ending = true;
    sem_post(&strand->go);
    pthread_join(strand->thread, NULL);
    sem_destroy(&strand->go);
    sem_destroy(&strand->back);
    mem_account(MEM_FIBER, -(ptrdiff_t)STACK_BYTES);
    mem_free(MEM_FIBER, strand, strand->bytes);
}

void strand_trim(struct strand *strand)
{
    (void)strand;
}

size_t strand_depth_bytes(struct strand *strand)
{
    (void)strand;
    return 0;
}
