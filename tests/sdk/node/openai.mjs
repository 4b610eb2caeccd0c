// SPDX-License-Identifier: Apache-2.0
// The official OpenAI SDK: chat completions and responses, through its stream helpers, which check every event.
import OpenAI from 'openai';

const clientOf = (task) => new OpenAI({ baseURL: `${task.base}/v1`, apiKey: task.key, maxRetries: task.retries });
const dataUri = (task) => `data:image/png;base64,${task.image}`;

function chatRequest(task) {
    const content = task.image
        ? [{ type: 'text', text: task.prompt }, { type: 'image_url', image_url: { url: dataUri(task) } }]
        : task.prompt;
    const request = { model: task.model, messages: [{ role: 'user', content }], max_completion_tokens: task.maxTokens };
    if (task.tools) request.tools = task.tools.map((tool) => ({ type: 'function', function: tool }));
    if (task.calls) {
        request.messages.push({
            role: 'assistant',
            tool_calls: task.calls.map(({ id, name, arguments: args }) => (
                { id, type: 'function', function: { name, arguments: JSON.stringify(args) } })),
        });
        task.calls.forEach(({ id }, i) => request.messages.push({ role: 'tool', tool_call_id: id, content: task.results[i] }));
    }
    if (task.schema) {
        request.response_format = { type: 'json_schema', json_schema: { name: 'answer', schema: task.schema, strict: true } };
    }
    return request;
}

function readCompletion(answer, result) {
    const [{ message, finish_reason: finish }] = answer.choices;
    const { usage } = answer;
    Object.assign(result, { text: message.content ?? '', finish });
    result.usage = {
        input: usage.prompt_tokens, cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
        output: usage.completion_tokens, reasoning: usage.completion_tokens_details?.reasoning_tokens ?? 0,
    };
    result.calls = (message.tool_calls ?? []).map((call) => (
        { id: call.id, name: call.function.name, arguments: JSON.parse(call.function.arguments) }));
}

async function chat(task, result) {
    const completions = clientOf(task).chat.completions;
    const request = chatRequest(task);
    if (!task.stream) return readCompletion(await completions.create(request), result);
    const stream = completions.stream({ ...request, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
        const piece = chunk.choices[0]?.delta?.content;
        if (piece) {
            result.text += piece;
            result.pieces += 1;
            if (task.leave) return stream.abort();
        }
    }
    return readCompletion(await stream.finalChatCompletion(), result);
}

function responsesRequest(task) {
    const content = [{ type: 'input_text', text: task.prompt }];
    if (task.image) content.push({ type: 'input_image', image_url: dataUri(task), detail: 'auto' });
    const request = { model: task.model, input: [{ role: 'user', content }], max_output_tokens: task.maxTokens };
    if (task.tools) request.tools = task.tools.map((tool) => ({ type: 'function', strict: false, ...tool }));
    for (const [i, { id, name, arguments: args }] of (task.calls ?? []).entries()) {
        request.input.push({ type: 'function_call', call_id: id, name, arguments: JSON.stringify(args) });
        request.input.push({ type: 'function_call_output', call_id: id, output: task.results[i] });
    }
    if (task.schema) {
        request.text = { format: { type: 'json_schema', name: 'answer', strict: true, schema: task.schema } };
    }
    return request;
}

function readResponse(answer, result) {
    const { usage } = answer;
    Object.assign(result, { text: answer.output_text, finish: answer.status });
    result.usage = {
        input: usage.input_tokens, cached: usage.input_tokens_details?.cached_tokens ?? 0,
        output: usage.output_tokens, reasoning: usage.output_tokens_details?.reasoning_tokens ?? 0,
    };
    result.calls = answer.output.filter((item) => item.type === 'function_call').map((item) => (
        { id: item.call_id, name: item.name, arguments: JSON.parse(item.arguments) }));
}

async function responses(task, result) {
    const client = clientOf(task);
    const request = responsesRequest(task);
    if (!task.stream) return readResponse(await client.responses.create(request), result);
    const stream = client.responses.stream(request);
    for await (const event of stream) {
        if (event.type === 'response.output_text.delta') {
            result.text += event.delta;
            result.pieces += 1;
            if (task.leave) return stream.abort();
        }
    }
    return readResponse(await stream.finalResponse(), result);
}

// Ask in the background and poll; then once more as a stream, left in the middle and gone on with.
async function background(task, result) {
    const client = clientOf(task);
    const request = { model: task.model, input: task.prompt, background: true };
    let response = await client.responses.create(request);
    while (['queued', 'in_progress'].includes(response.status)) response = await client.responses.retrieve(response.id);
    Object.assign(result, { text: response.output_text, finish: response.status, resumed: '' });
    let id, last;
    for await (const event of await client.responses.create({ ...request, stream: true })) {
        id ??= event.response?.id;
        last = event.sequence_number;
        if (event.type === 'response.output_text.delta') {
            result.resumed += event.delta;
            break;
        }
    }
    for await (const event of await client.responses.retrieve(id, { stream: true, starting_after: last })) {
        if (event.type === 'response.output_text.delta') result.resumed += event.delta;
    }
}

// The SDK asks for base64 by itself and decodes it.
async function embeddings(task, result) {
    const answer = await clientOf(task).embeddings.create({ model: task.model, input: task.texts });
    result.vectors = answer.data.map(({ embedding }) => embedding);
    result.usage = { input: answer.usage.prompt_tokens };
}

export default {
    'openai-node-chat': chat,
    'openai-node-responses': responses,
    'openai-node-background': background,
    'openai-node-embeddings': embeddings,
};
