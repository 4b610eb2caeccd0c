/* SPDX-License-Identifier: Apache-2.0 */
/* Two folders of one layer. */
#include "conf/b.h"
