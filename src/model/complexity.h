/* SPDX-License-Identifier: Apache-2.0 */
/* How much a prompt asks of a model: a number from 0 (a greeting) to 100.
 *
 * It is a sum that can be read: a base, and for each feature (complexity.def) its count times a weight.
 * Features are counts of what can be seen from outside (lengths, words, signs, tools), so the number is a
 * guess by appearance; docs/cost-routing.md says how often it is right. */
#ifndef MODEL_COMPLEXITY_H
#define MODEL_COMPLEXITY_H

#include "model/message.h"

enum complexity_feature {
#define FEATURE(id, ...) COMPLEXITY_##id,
#include "model/complexity.def"
#undef FEATURE
    COMPLEXITY_FEATURE_COUNT
};

struct complexity {
    unsigned score;                            /* 0 … 100 */
    unsigned counts[COMPLEXITY_FEATURE_COUNT]; /* each at most what the table says */
};

/* Measure a prompt, or a bare text as if it were the only message. Time is bounded but for the number of
 * messages and tools: of long texts the beginning and the end are looked at. Allocates nothing. */
void complexity_measure(const struct prompt *prompt, struct complexity *out);
void complexity_measure_text(struct str text, struct complexity *out);

/* What a feature is called, and what it adds to the score; what the score is before all features. In
 * hundredths of a point; the score is the sum, rounded, between 0 and 100. */
const char *complexity_feature_name(enum complexity_feature feature);
int complexity_feature_points(const struct complexity *complexity, enum complexity_feature feature);
int complexity_base_points(void);

#endif
