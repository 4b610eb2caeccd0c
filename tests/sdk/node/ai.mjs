// SPDX-License-Identifier: Apache-2.0
// The Vercel AI SDK with its OpenAI provider (responses), its provider for compatible servers (chat) and Anthropic's.
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from 'ai';

const models = {
    'ai-openai': (task) => createOpenAI({ baseURL: `${task.base}/v1`, apiKey: task.key }).responses(task.model),
    'ai-openai-compatible': (task) => createOpenAICompatible({
        name: 'sluice', baseURL: `${task.base}/v1`, apiKey: task.key, includeUsage: true, supportsStructuredOutputs: true,
    })(task.model),
    'ai-anthropic': (task) => createAnthropic({ baseURL: `${task.base}/v1`, apiKey: task.key })(task.model),
};

function messagesOf(task) {
    const content = [{ type: 'text', text: task.prompt }];
    if (task.image) content.push({ type: 'file', data: task.image, mediaType: 'image/png' });
    const messages = [{ role: 'user', content }];
    if (task.calls) {
        messages.push({
            role: 'assistant',
            content: task.calls.map(({ id, name, arguments: input }) => (
                { type: 'tool-call', toolCallId: id, toolName: name, input })),
        }, {
            role: 'tool',
            content: task.calls.map(({ id, name }, i) => (
                { type: 'tool-result', toolCallId: id, toolName: name, output: { type: 'text', value: task.results[i] } })),
        });
    }
    return messages;
}

function settingsOf(task) {
    const settings = {
        model: models[task.client](task), messages: messagesOf(task), maxOutputTokens: task.maxTokens,
        maxRetries: task.retries, providerOptions: { anthropic: { structuredOutputMode: 'outputFormat' }, openai: { store: false } },
    };
    if (task.tools) {
        settings.tools = Object.fromEntries(task.tools.map(({ name, description, parameters }) => (
            [name, tool({ description, inputSchema: jsonSchema(parameters) })])));
    }
    if (task.schema) settings.output = Output.object({ schema: jsonSchema(task.schema) });
    return settings;
}

// Usage has the same names whole and streamed; cached and reasoning tokens are parts of input and output.
function usageOf(usage) {
    return {
        input: usage.inputTokens, cached: usage.inputTokenDetails?.cacheReadTokens ?? 0,
        output: usage.outputTokens, reasoning: usage.outputTokenDetails?.reasoningTokens ?? 0,
    };
}

const callsOf = (calls) => calls.map(({ toolCallId, toolName, input }) => (
    { id: toolCallId, name: toolName, arguments: input }));

async function whole(task, result) {
    const answer = await generateText(settingsOf(task));
    Object.assign(result, {
        text: answer.text, finish: answer.finishReason, usage: usageOf(answer.usage), calls: callsOf(answer.toolCalls),
    });
    if (task.schema) result.object = answer.output;
}

async function stream(task, result) {
    const aborter = new AbortController();
    const answer = streamText({ ...settingsOf(task), abortSignal: aborter.signal, onError() {} });
    for await (const part of answer.fullStream ?? answer.stream) {
        if (part.type === 'error') throw part.error;
        if (part.type === 'text-delta') {
            result.text += part.text;
            result.pieces += 1;
            if (task.leave) return aborter.abort();
        }
    }
    result.finish = await answer.finishReason;
    result.usage = usageOf(await answer.usage);
    result.calls = callsOf(await answer.toolCalls);
    if (task.schema) result.object = await answer.output;
    return undefined;
}

const ask = (task, result) => (task.stream ? stream(task, result) : whole(task, result));

async function embeddings(task, result) {
    const openai = createOpenAI({ baseURL: `${task.base}/v1`, apiKey: task.key });
    const answer = await embedMany({ model: openai.embeddingModel(task.model), values: task.texts, maxRetries: task.retries });
    result.vectors = answer.embeddings;
    result.usage = { input: answer.usage.tokens };
}

export default { 'ai-openai': ask, 'ai-openai-compatible': ask, 'ai-anthropic': ask, 'ai-embeddings': embeddings };
