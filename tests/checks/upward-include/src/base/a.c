/* SPDX-License-Identifier: Apache-2.0 */
/* A base file that knows the network. */
#include "net/http.h"
#include "base/b.h"
#include "b.h"
