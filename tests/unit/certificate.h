/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of TLS: keys and certificates made on the spot. */
#ifndef TESTS_UNIT_CERTIFICATE_H
#define TESTS_UNIT_CERTIFICATE_H

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>

/* What a certificate says; it is valid from `from_s` to `until_s`, counted from now. */
struct certificate_plan {
    const char *names; /* "DNS:example.org,IP:127.0.0.1"; NULL: none */
    bool is_authority;
    long from_s, until_s;
    X509 *issuer; /* NULL: it signs itself */
    EVP_PKEY *issuer_key;
};

static inline void certificate_extend(X509 *certificate, int nid, const char *value)
{
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    if (!extension || !X509_add_ext(certificate, extension, -1))
        abort();
    X509_EXTENSION_free(extension);
}

/* The caller frees it. */
static inline X509 *certificate_make(const char *name, EVP_PKEY *key,
                                     const struct certificate_plan *plan)
{
    X509 *certificate = X509_new();
    X509_NAME *subject = X509_get_subject_name(certificate);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), plan->issuer ? 2 : 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), plan->from_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate), plan->until_s);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(certificate, plan->issuer ? X509_get_subject_name(plan->issuer) : subject);
    X509_set_pubkey(certificate, key);
    if (plan->names)
        certificate_extend(certificate, NID_subject_alt_name, plan->names);
    if (plan->is_authority)
        certificate_extend(certificate, NID_basic_constraints, "critical,CA:TRUE");
    if (X509_sign(certificate, plan->issuer ? plan->issuer_key : key, EVP_sha256()) <= 0)
        abort();
    return certificate;
}

static inline void certificate_write(const char *path, X509 *certificate)
{
    FILE *file = fopen(path, "w");

    if (!file || !PEM_write_X509(file, certificate) || fclose(file))
        abort();
}

static inline void certificate_write_key(const char *path, EVP_PKEY *key)
{
    FILE *file = fopen(path, "w");

    if (!file || !PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL) || fclose(file))
        abort();
}

#endif
