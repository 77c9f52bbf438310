//! Which way of attention is the quicker one on a device, by timing both the first time that tensors
//! of such sizes come. Without the feature `autotune` it is always the fused one.

use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeRuntime};

use super::{Inputs, fused};
use crate::backend::Sight;

#[cfg(feature = "autotune")]
pub use timed::{backward, forward};

/// [`Kernels::attend`](crate::backend::Kernels::attend).
#[cfg(not(feature = "autotune"))]
pub fn forward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    sight: &Sight,
) -> (CubeTensor<R>, CubeTensor<R>) {
    fused::forward::<R, BT>(inputs, sight)
}

/// The gradients of what goes in.
#[cfg(not(feature = "autotune"))]
pub fn backward<R: CubeRuntime, BT: BoolElement>(
    inputs: Inputs<R>,
    output: CubeTensor<R>,
    log_sums: CubeTensor<R>,
    gradient: CubeTensor<R>,
    sight: &Sight,
) -> Vec<CubeTensor<R>> {
    fused::backward::<R, BT>(inputs, output, log_sums, gradient, sight)
}

#[cfg(feature = "autotune")]
mod timed {
    use burn_cubecl::CubeTuneId;
    use cubecl::AutotuneKey;
    use cubecl::prelude::ComputeClient;
    use cubecl::tune::{AutotuneOutput, LocalTuner, Tunable, TunableSet, local_tuner};
    use serde::{Deserialize, Serialize};

    use super::super::scores::Rules;
    use super::super::{Sizes, blocks};
    use super::{BoolElement, CubeRuntime, CubeTensor, Inputs, Sight, fused};

    /// The ways, the first of which is taken while another thread is timing them. Choices are kept on
    /// disk for as long as the names stay: a kernel that has become quicker or slower needs another.
    const FUSED: &str = "fused 2";
    const BLOCKS: &str = "blocks 2";

    /// What the choice depends on. Numbers that are anchored count up to the next power of two.
    #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, AutotuneKey)]
    struct Key {
        /// Of all entries of the batch.
        #[autotune(anchor)]
        heads: usize,
        #[autotune(anchor)]
        key_heads: usize,
        #[autotune(anchor)]
        queries: usize,
        #[autotune(anchor)]
        keys: usize,
        #[autotune(anchor)]
        window: usize,
        key_width: usize,
        value_width: usize,
        /// Whether heads stand in one tensor.
        joined: bool,
        rules: Rules,
    }

    impl Key {
        fn of<R: CubeRuntime>(inputs: &Inputs<R>, sight: &Sight) -> Self {
            let Sizes { batch, heads, key_heads, queries, keys, key_width, value_width } =
                inputs.sizes();
            let window = sight.window.unwrap_or(keys).min(keys);
            Self::new(
                batch * heads,
                batch * key_heads,
                queries,
                keys,
                window,
                key_width,
                value_width,
                matches!(inputs, Inputs::Joined(..)),
                Rules::of(sight),
            )
        }
    }

    /// The tensors that come out.
    struct Output<R: CubeRuntime>(Vec<CubeTensor<R>>);

    impl<R: CubeRuntime> AutotuneOutput for Output<R> {}

    /// Queries, keys and values, and how they are seen.
    type Forward<R> = (Inputs<R>, Sight);

    /// The same, then the output, the logarithms of its sums and its gradient.
    type Backward<R> = (Inputs<R>, Sight, [CubeTensor<R>; 3]);

    /// [`Kernels::attend`](crate::backend::Kernels::attend).
    pub fn forward<R: CubeRuntime, BT: BoolElement>(
        inputs: Inputs<R>,
        sight: &Sight,
    ) -> (CubeTensor<R>, CubeTensor<R>) {
        static TUNER: LocalTuner<Key, CubeTuneId> = local_tuner!("attention-forward");
        let ways = TUNER.init(|| {
            let fused = |(inputs, sight): Forward<R>| {
                let (output, log_sums) = fused::forward::<R, BT>(inputs, &sight);
                made(vec![output, log_sums])
            };
            let of_blocks = |(inputs, sight): Forward<R>| {
                let (output, log_sums) = blocks::forward::<R, BT>(inputs, &sight);
                made(vec![output, log_sums])
            };
            let key = |(inputs, sight): &Forward<R>| Key::of(inputs, sight);
            TunableSet::<_, Forward<R>, _>::new_cloning_inputs(key)
                .with(Tunable::new(FUSED, fused))
                .with(Tunable::new(BLOCKS, of_blocks))
        });
        let (id, client) = device_of(&inputs);
        let Output(outputs) = TUNER.execute(&id, &client, ways, (inputs, sight.clone()));
        let outputs: [CubeTensor<R>; 2] = outputs.try_into().expect("there are two");
        outputs.into()
    }

    /// The gradients of what goes in.
    pub fn backward<R: CubeRuntime, BT: BoolElement>(
        inputs: Inputs<R>,
        output: CubeTensor<R>,
        log_sums: CubeTensor<R>,
        gradient: CubeTensor<R>,
        sight: &Sight,
    ) -> Vec<CubeTensor<R>> {
        static TUNER: LocalTuner<Key, CubeTuneId> = local_tuner!("attention-backward");
        let ways = TUNER.init(|| {
            let fused = |(inputs, sight, [output, log_sums, gradient]): Backward<R>| {
                made(fused::backward::<R, BT>(inputs, output, log_sums, gradient, &sight))
            };
            let of_blocks = |(inputs, sight, [output, log_sums, gradient]): Backward<R>| {
                made(blocks::backward::<R, BT>(inputs, output, log_sums, gradient, &sight))
            };
            let key = |(inputs, sight, _): &Backward<R>| Key::of(inputs, sight);
            TunableSet::<_, Backward<R>, _>::new_cloning_inputs(key)
                .with(Tunable::new(FUSED, fused))
                .with(Tunable::new(BLOCKS, of_blocks))
        });
        let (id, client) = device_of(&inputs);
        let given = (inputs, sight.clone(), [output, log_sums, gradient]);
        let Output(gradients) = TUNER.execute(&id, &client, ways, given);
        gradients
    }

    /// What a way has made, which no way fails to.
    fn made<R: CubeRuntime>(tensors: Vec<CubeTensor<R>>) -> Result<Output<R>, String> {
        Ok(Output(tensors))
    }

    fn device_of<R: CubeRuntime>(inputs: &Inputs<R>) -> (CubeTuneId, ComputeClient<R>) {
        let CubeTensor { client, device, .. } = inputs.first();
        (CubeTuneId::new(client, device), client.clone())
    }
}
