// SPDX-License-Identifier: Apache-2.0
// The Node.js SDKs behind one face: reads tasks from stdin, one JSON object per line, and prints one result each.
// clients.py says what a task and a result hold. A package that is not installed gives {"missing": …}.
import { createInterface } from 'node:readline';

const homes = {
    'openai-node-chat': './openai.mjs',
    'openai-node-responses': './openai.mjs',
    'openai-node-background': './openai.mjs',
    'openai-node-embeddings': './openai.mjs',
    'anthropic-node': './anthropic.mjs',
    'ai-openai': './ai.mjs',
    'ai-openai-compatible': './ai.mjs',
    'ai-anthropic': './ai.mjs',
    'ai-embeddings': './ai.mjs',
    'langchain-openai-node': './langchain.mjs',
    'langchain-anthropic-node': './langchain.mjs',
    'langchain-embeddings-node': './langchain.mjs',
    'genai-node': './genai.mjs',
};

function classesOf(error) {
    const names = [error.name];
    for (let kind = error.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) names.push(kind.name);
    return names;
}

async function run(task) {
    const result = {
        text: '', finish: null, calls: [], pieces: 0, usage: { input: 0, cached: 0, output: 0, reasoning: 0 },
    };
    let clients;
    try {
        clients = await import(homes[task.client]);
    } catch (error) {
        if (error.code === 'ERR_MODULE_NOT_FOUND') return { missing: error.message };
        throw error;
    }
    try {
        await clients.default[task.client](task, result);
        if (task.schema && result.text) result.object ??= JSON.parse(result.text);
    } catch (error) {
        result.error = { classes: classesOf(error), status: error.status ?? error.statusCode, message: String(error.message) };
    }
    return result;
}

for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await run(JSON.parse(line))));
}
process.exit(0);
